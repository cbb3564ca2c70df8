// The innermost loops: results [M, NR] += tile * panel, with the results in registers.

#pragma once

#include "panels.h"

namespace {

#define TW_UNROLL _Pragma("GCC unroll 12")

template <int M>
TW_INLINE void load_results(vf acc[M][2], const float *results) {
    TW_UNROLL for (int m = 0; m < M; ++m) {
        acc[m][0] = load(results + m * NR);
        acc[m][1] = load(results + m * NR + W);
    }
}

template <int M>
TW_INLINE void store_results(float *results, const vf acc[M][2]) {
    TW_UNROLL for (int m = 0; m < M; ++m) {
        store(results + m * NR, acc[m][0]);
        store(results + m * NR + W, acc[m][1]);
    }
}

// How far ahead of its products a panel is fetched. The hardware's own look ahead ends with each page of 4 KiB, and
// products of several rows would wait there.
constexpr int64_t kBytesAhead = 4096;
// Whether products of one row ask as well. The CPUs of the strongest level that these kernels were measured on read
// as fast by themselves, and asking takes time; others read a fifth more. Four bits always ask: they are unpacked
// meanwhile.
constexpr bool kFetchesForOneRow = TW_LEVEL < TW_AVX512_BF16;

// Two cache lines, as many as a step of a product reads. Past the matrix's end nothing is read, only fetched.
TW_INLINE void fetch_lines(const uint8_t *at) {
    __builtin_prefetch(at);
    __builtin_prefetch(at + 64);
}

// What a product asks memory for while it computes: `step` bytes with each input, at most two cache lines.
struct Ahead {
    const uint8_t *at;
    int64_t step;

    void fetch() {
        fetch_lines(at);
        at += step;
    }
};

template <int M>
__attribute__((noinline)) void multiply_floats(const float *tile, const float *weights, int64_t inputs, float *results,
                                               Ahead ahead) {
    vf acc[M][2];
    load_results<M>(acc, results);
    for (int64_t i = 0; i < inputs; ++i, weights += NR, tile += M) {
        if (M > 1 || kFetchesForOneRow) ahead.fetch();
        const vf w0 = load(weights), w1 = load(weights + W);
        TW_UNROLL for (int m = 0; m < M; ++m) {
            const vf x = splat(tile[m]);
            acc[m][0] = fma(x, w0, acc[m][0]);
            acc[m][1] = fma(x, w1, acc[m][1]);
        }
    }
    store_results<M>(results, acc);
}

// Two vectors of outputs for each of two inputs, of weights in 16 bits.
TW_INLINE void load_two_inputs(const bf16 *weights, vf first[2], vf second[2]) {
    load_pairs(weights, first[0], second[0]);
    load_pairs(weights + 2 * W, first[1], second[1]);
}
TW_INLINE void load_two_inputs(const f16 *weights, vf first[2], vf second[2]) {
    first[0] = load(weights);
    first[1] = load(weights + W);
    second[0] = load(weights + NR);
    second[1] = load(weights + NR + W);
}

// The same of weights in 16 bits, widened in registers, so that reading them and multiplying overlap. `kKeeps`: what
// they are widened to is left in `wide` for tiles to come.
template <int M, bool kKeeps, class T>
__attribute__((noinline)) void multiply_halves(const float *tile, const T *weights, int64_t inputs, float *results,
                                               float *wide, Ahead ahead) {
    vf acc[M][2];
    load_results<M>(acc, results);
    ahead.step *= 2;
    for (int64_t i = 0; i < inputs; i += 2, weights += 2 * NR, tile += 2 * M) {
        if (M > 1 || kFetchesForOneRow) ahead.fetch();
        vf w[2][2];
        load_two_inputs(weights, w[0], w[1]);
        for (int input = 0; input < 2; ++input) {
            if (kKeeps) {
                store(wide + (i + input) * NR, w[input][0]);
                store(wide + (i + input) * NR + W, w[input][1]);
            }
            TW_UNROLL for (int m = 0; m < M; ++m) {
                const vf x = splat(tile[input * M + m]);
                acc[m][0] = fma(x, w[input][0], acc[m][0]);
                acc[m][1] = fma(x, w[input][1], acc[m][1]);
            }
        }
    }
    store_results<M>(results, acc);
}

#if TW_LEVEL >= TW_AVX512_BF16
template <int M>
__attribute__((noinline)) void multiply_pairs(const uint32_t *tile, const uint8_t *weights, int64_t pairs,
                                              float *results, Ahead ahead) {
    vf acc[M][2];
    load_results<M>(acc, results);
    for (int64_t i = 0; i < pairs; ++i, weights += NR * 4, tile += M) {
        if (M > 1) ahead.fetch();
        const __m512bh w0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(weights));
        const __m512bh w1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(weights + 64));
        TW_UNROLL for (int m = 0; m < M; ++m) {
            const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(tile[m])));
            acc[m][0] = _mm512_dpbf16_ps(acc[m][0], w0, x);
            acc[m][1] = _mm512_dpbf16_ps(acc[m][1], w1, x);
        }
    }
    store_results<M>(results, acc);
}
#endif

#if TW_LEVEL >= TW_AVX512_VNNI
// What an int8 tile and a panel share: everything but the codes' width.
struct QuadArguments {
    const uint32_t *tile;
    const float *tile_scales;     // [groups, M]
    const int32_t *tile_offsets;  // [groups, M]
    const uint8_t *weights;
    const void *scales;           // [groups, NR] of this panel, or null: one scale, applied later.
    int64_t groups;
    int64_t step;
};

// Says that a sum has a register of its own, here: the compiler otherwise moves sums about, and some to memory.
template <int M>
TW_INLINE void keep_apart(__m512i acc[M][2]) {
    TW_UNROLL for (int m = 0; m < M; ++m) __asm__("" : "+v"(acc[m][0]), "+v"(acc[m][1]));
}

// One group of inputs in integers: acc += tile * weights.
template <int M>
TW_INLINE void sum_bytes(__m512i acc[M][2], const uint32_t *tile, const uint8_t *weights, int64_t inputs,
                         Ahead &ahead) {
    for (int64_t i = 0; i < inputs; i += 4, weights += 128, tile += M) {
        if (M > 1 || kFetchesForOneRow) ahead.fetch();
        const __m512i w0 = _mm512_loadu_si512(weights), w1 = _mm512_loadu_si512(weights + 64);
        TW_UNROLL for (int m = 0; m < M; ++m) {
            const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(tile[m]));
            acc[m][0] = _mm512_dpbusd_epi32(acc[m][0], w0, x);
            acc[m][1] = _mm512_dpbusd_epi32(acc[m][1], w1, x);
        }
        keep_apart<M>(acc);
    }
}

// The same of codes of 4 bits.
template <int M>
TW_INLINE void sum_fours(__m512i acc[M][2], const uint32_t *tile, const uint8_t *weights, int64_t inputs,
                         Ahead &ahead) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t i = 0; i < inputs; i += 8, weights += 128, tile += 2 * M) {
        ahead.fetch();
        const __m512i both0 = _mm512_loadu_si512(weights), both1 = _mm512_loadu_si512(weights + 64);
        const __m512i w0 = _mm512_and_si512(both0, low), w1 = _mm512_and_si512(both1, low);
        TW_UNROLL for (int m = 0; m < M; ++m) {
            const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(tile[m]));
            acc[m][0] = _mm512_dpbusd_epi32(acc[m][0], w0, x);
            acc[m][1] = _mm512_dpbusd_epi32(acc[m][1], w1, x);
        }
        const __m512i w2 = _mm512_and_si512(_mm512_srli_epi16(both0, 4), low);
        const __m512i w3 = _mm512_and_si512(_mm512_srli_epi16(both1, 4), low);
        TW_UNROLL for (int m = 0; m < M; ++m) {
            const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(tile[M + m]));
            acc[m][0] = _mm512_dpbusd_epi32(acc[m][0], w2, x);
            acc[m][1] = _mm512_dpbusd_epi32(acc[m][1], w3, x);
        }
        keep_apart<M>(acc);
    }
}

// How a group's sums become floats: under scales of 16 or 32 bits for each output, or under one that comes later.
enum Scales { kNoScales, kHalfScales, kFloatScales };

template <int M, Scales kScales>
__attribute__((noinline)) void multiply_quads(const QuadArguments &a, float *results, Ahead ahead) {
    constexpr bool kFourBits = kScales == kHalfScales;
    const int64_t inputs = a.step, weight_bytes = inputs * NR / (kFourBits ? 2 : 1);
    const uint32_t *tile = a.tile;
    const uint8_t *weights = a.weights;
    const float *tile_scales = a.tile_scales;
    const int32_t *offsets = a.tile_offsets;
    for (int64_t group = 0; group < a.groups; ++group) {
        __m512i acc[M][2];
        TW_UNROLL for (int m = 0; m < M; ++m) acc[m][0] = acc[m][1] = _mm512_set1_epi32(offsets[m]);
        keep_apart<M>(acc);
        if (kFourBits) {
            sum_fours<M>(acc, tile, weights, inputs, ahead);
        } else {
            sum_bytes<M>(acc, tile, weights, inputs, ahead);
        }
        // Or the compiler keeps the results from group to group, in registers that it does not have.
        __asm__ volatile("" ::: "memory");
        vf scale0 = zero(), scale1 = zero();
        if (kScales == kHalfScales) {
            const f16 *scales = static_cast<const f16 *>(a.scales) + group * NR;
            scale0 = load(scales);
            scale1 = load(scales + W);
        } else if (kScales == kFloatScales) {
            const float *scales = static_cast<const float *>(a.scales) + group * NR;
            scale0 = load(scales);
            scale1 = load(scales + W);
        }
        TW_UNROLL for (int m = 0; m < M; ++m) {
            const vf scale = splat(tile_scales[m]);
            float *out = results + m * NR;
            store(out, fma(_mm512_cvtepi32_ps(acc[m][0]), kScales ? mul(scale, scale0) : scale, load(out)));
            store(out + W, fma(_mm512_cvtepi32_ps(acc[m][1]), kScales ? mul(scale, scale1) : scale, load(out + W)));
        }
        tile += inputs / 4 * M;
        weights += weight_bytes;
        tile_scales += M;
        offsets += M;
    }
}

// Codes of 4 bits with few rows: what unpacking and scaling cost is not shared by many, so results and sums stay in
// registers, and the upper halves of bytes are multiplied where they are: 16 times too much, taken off the sum.
template <int M>
__attribute__((noinline)) void multiply_fours(const QuadArguments &a, float *results, Ahead ahead) {
    const __m512i lower = _mm512_set1_epi8(15), upper = _mm512_set1_epi8(static_cast<char>(0xf0));
    const uint32_t *tile = a.tile;
    const uint8_t *weights = a.weights;
    const f16 *scales = static_cast<const f16 *>(a.scales);
    vf out[M][2];
    load_results<M>(out, results);
    for (int64_t group = 0; group < a.groups; ++group, scales += NR) {
        __m512i low[M][2], high[M][2];
        TW_UNROLL for (int m = 0; m < M; ++m) {
            low[m][0] = low[m][1] = _mm512_set1_epi32(a.tile_offsets[group * M + m]);
            high[m][0] = high[m][1] = _mm512_setzero_si512();
        }
        __builtin_prefetch(reinterpret_cast<const uint8_t *>(scales) + kBytesAhead / 8);
        for (int64_t i = 0; i < a.step; i += 8, weights += 128, tile += 2 * M) {
            ahead.fetch();
            const __m512i both0 = _mm512_loadu_si512(weights), both1 = _mm512_loadu_si512(weights + 64);
            const __m512i w0 = _mm512_and_si512(both0, lower), w1 = _mm512_and_si512(both1, lower);
            const __m512i w2 = _mm512_and_si512(both0, upper), w3 = _mm512_and_si512(both1, upper);
            TW_UNROLL for (int m = 0; m < M; ++m) {
                const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(tile[m]));
                low[m][0] = _mm512_dpbusd_epi32(low[m][0], w0, x);
                low[m][1] = _mm512_dpbusd_epi32(low[m][1], w1, x);
            }
            TW_UNROLL for (int m = 0; m < M; ++m) {
                const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(tile[M + m]));
                high[m][0] = _mm512_dpbusd_epi32(high[m][0], w2, x);
                high[m][1] = _mm512_dpbusd_epi32(high[m][1], w3, x);
            }
        }
        const vf scale0 = load(scales), scale1 = load(scales + W);
        TW_UNROLL for (int m = 0; m < M; ++m) {
            const vf scale = splat(a.tile_scales[group * M + m]);
            const __m512i sum0 = _mm512_add_epi32(low[m][0], _mm512_srai_epi32(high[m][0], 4));
            const __m512i sum1 = _mm512_add_epi32(low[m][1], _mm512_srai_epi32(high[m][1], 4));
            out[m][0] = fma(_mm512_cvtepi32_ps(sum0), mul(scale, scale0), out[m][0]);
            out[m][1] = fma(_mm512_cvtepi32_ps(sum1), mul(scale, scale1), out[m][1]);
        }
    }
    store_results<M>(results, out);
}

// Codes of 4 bits.
template <int M>
TW_INLINE void multiply_codes(const QuadArguments &a, float *results, Ahead ahead) {
    if constexpr (M <= 4) {
        multiply_fours<M>(a, results, ahead);
    } else {
        multiply_quads<M, kHalfScales>(a, results, ahead);
    }
}
#endif

// Calls `function<M>` for the height of a tile.
#if TW_LEVEL >= TW_AVX512
#define TW_FOR_HEIGHT(height, call) \
    switch (height) {               \
        case 1: call(1); break;     \
        case 2: call(2); break;     \
        case 4: call(4); break;     \
        case 8: call(8); break;     \
        default: call(12); break;   \
    }
#elif TW_LEVEL >= TW_AVX2
#define TW_FOR_HEIGHT(height, call) \
    switch (height) {               \
        case 1: call(1); break;     \
        case 2: call(2); break;     \
        case 4: call(4); break;     \
        default: call(6); break;    \
    }
#else
#define TW_FOR_HEIGHT(height, call) \
    switch (height) {               \
        case 1: call(1); break;     \
        case 2: call(2); break;     \
        default: call(4); break;    \
    }
#endif

}  // namespace
