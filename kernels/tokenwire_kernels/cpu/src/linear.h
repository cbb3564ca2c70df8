// y = x Wᵀ, with weights in panels.
//
// A panel holds NR = 2 vectors' worth of output features, input by input, so that a product streams it from
// its first byte to its last. Activations are laid out in tiles of up to MR rows, input by input as well. The
// microkernels below keep a tile's results in registers: M x NR of them.
//
// Every output is accumulated in float32 over its inputs in one fixed order, which depends on neither the
// number of rows nor the threads: a token's result is the same alone and in a batch.
//
// Where the CPU multiplies the weights' format itself (bfloat16 pairs, int8 quads), activations are rounded to
// it: bfloat16, or int8 with one scale for each row and group of inputs. Everywhere else weights are widened
// to float32, a piece of a panel at a time, which stays in the innermost cache.

#pragma once

#include "abi.h"
#include "pool.h"
#include "simd.h"

namespace {

using tokenwire::Pool;
using tokenwire::Worker;

constexpr int NR = 2 * W;
#if TW_LEVEL >= TW_AVX512
constexpr int MR = 12;
#elif TW_LEVEL >= TW_AVX2
constexpr int MR = 6;
#else
constexpr int MR = 4;
#endif

constexpr bool kDotsBfloat16 = TW_LEVEL >= TW_AVX512_BF16;
constexpr bool kDotsInt8 = TW_LEVEL >= TW_AVX512_VNNI;

// Inputs of int8 activations that share a scale, where the weights do not say.
constexpr int64_t kActivationGroup = 64;
// Rows that a task multiplies with one panel: their activations stay in the second-level cache.
constexpr int64_t kRowBlock = 20 * MR;
// Up to so many rows, a tile, every thread prepares the activations for itself: one would do it, and all wait.
constexpr int64_t kRowsForOne = MR;

enum { kScratchActivations, kScratchResults, kScratchWeights, kScratchRow };
enum { kSharedActivations, kSharedQkv, kSharedAttended, kSharedGated, kSharedPartials, kSharedTasks };

// How a format is multiplied.
enum Path { kWiden, kPairs, kQuads };

TW_INLINE Path path_of(int32_t format) {
    if (kDotsBfloat16 && format == TW_W_BFLOAT16) return kPairs;
    if (kDotsInt8 && (format == TW_W_INT8 || format == TW_W_INT4)) return kQuads;
    return kWiden;
}

// Everything about a matrix's layout that follows from its description.
struct Layout {
    Path path;
    int64_t inputs;       // Padded with zeros.
    int64_t panels;
    int64_t panel_bytes;
    int64_t group;        // Inputs that share a scale of weights; 0: no scales.
    int64_t groups;
    int64_t step;         // Inputs of activations that share a scale (kQuads).
};

TW_INLINE Layout layout_of(const tw_matrix &matrix) {
    Layout layout;
    layout.path = path_of(matrix.format);
    int64_t half = matrix.n / 2;
    layout.panels = matrix.is_paired ? ceil_div(half, W) : ceil_div(matrix.n, NR);
    const bool is_coded = matrix.format == TW_W_INT8 || matrix.format == TW_W_INT4;
    layout.step = matrix.group ? matrix.group : kActivationGroup;
    layout.inputs = round_up(matrix.k, layout.path == kQuads ? layout.step : matrix.group ? matrix.group : 2);
    layout.group = is_coded ? (matrix.group ? matrix.group : layout.inputs) : 0;
    layout.groups = is_coded ? layout.inputs / layout.group : 0;
    int64_t bits = matrix.format == TW_W_FLOAT32 ? 32 : matrix.format == TW_W_INT8 ? 8 : matrix.format == TW_W_INT4 ? 4 : 16;
    layout.panel_bytes = round_up(layout.inputs * NR * bits / 8, 64);
    return layout;
}

// Panel and lane of an output feature.
TW_INLINE void place_of(const tw_matrix &matrix, int64_t row, int64_t &panel, int64_t &lane) {
    if (!matrix.is_paired) {
        panel = row / NR;
        lane = row % NR;
        return;
    }
    int64_t half = matrix.n / 2, index = row < half ? row : row - half;
    panel = index / W;
    lane = index % W + (row < half ? 0 : W);
}

// ---------------------------------------------------------------- packing weights

// Inputs [from, to) of one output feature. Of bfloat16 two inputs lie side by side, as one lane of 32 bits.
template <class T>
TW_INLINE void pack_row(int32_t format, uint8_t *panel, int64_t lane, const T *row, int64_t from,
                        int64_t to) {
    if (format == TW_W_FLOAT32) {
        float *out = reinterpret_cast<float *>(panel) + lane;
        for (int64_t i = from; i < to; ++i) out[i * NR] = to_float(row[i]);
    } else if (format == TW_W_BFLOAT16) {
        bf16 *out = reinterpret_cast<bf16 *>(panel) + 2 * lane;
        for (int64_t i = from; i < to; ++i) from_float(to_float(row[i]), out + (i / 2) * 2 * NR + i % 2);
    } else {
        f16 *out = reinterpret_cast<f16 *>(panel) + lane;
        for (int64_t i = from; i < to; ++i) from_float(to_float(row[i]), out + i * NR);
    }
}

// The product instruction of `kQuads` wants one unsigned factor: there codes are stored with a constant added,
// which is taken off again through the sum of the activations. Codes of 4 bits always are: two runs of inputs
// share their bytes, the first in the lower halves.
TW_INLINE void pack_code_row(const Layout &layout, int32_t format, uint8_t *panel, int64_t lane, const int8_t *codes,
                             int64_t from, int64_t to) {
    const int64_t width = layout.path == kQuads ? 4 : 1;
    uint8_t *out = panel + width * lane;
    if (format == TW_W_INT8) {
        const int offset = layout.path == kQuads ? 128 : 0;
        for (int64_t i = from; i < to; ++i)
            out[i / width * width * NR + i % width] = static_cast<uint8_t>(codes[i] + offset);
    } else {
        for (int64_t i = from; i < to; ++i) {
            uint8_t *byte = out + i / (2 * width) * width * NR + i % width;
            const int shift = i / width % 2 ? 4 : 0;
            *byte = static_cast<uint8_t>((*byte & (0xf0 >> shift)) | (codes[i] + 8) << shift);
        }
    }
}

struct PackArguments {
    const tw_matrix *matrix;
    int64_t first_row, num_rows;  // Of a paired matrix, within one half.
    const void *weights;          // Or codes and scales.
    int32_t dtype;
    int64_t stride;
    const int8_t *codes;
    const float *scales;
};

TW_INLINE void pack_scales(const PackArguments &a, const Layout &layout, int64_t index, int64_t panel, int64_t lane) {
    const float *scales = a.scales + index * layout.groups;
    for (int64_t group = 0; group < layout.groups; ++group) {
        const int64_t place = (panel * layout.groups + group) * NR + lane;
        if (a.matrix->format == TW_W_INT4) {
            from_float(scales[group], static_cast<f16 *>(a.matrix->scales) + place);
        } else {
            static_cast<float *>(a.matrix->scales)[place] = scales[group];
        }
    }
}

void pack_body(Worker &worker, const void *argument) {
    const PackArguments &a = *static_cast<const PackArguments *>(argument);
    const tw_matrix &matrix = *a.matrix;
    const Layout layout = layout_of(matrix);
    constexpr int64_t kInputs = 128;  // At a time, so that what is written stays in the first-level cache.
    const int64_t unit = matrix.is_paired ? W : NR;
    const int64_t before = (matrix.is_paired ? a.first_row % (matrix.n / 2) : a.first_row) % unit;
    for (int64_t begin, end; worker.claim(ceil_div(before + a.num_rows, unit), begin, end);) {
        const int64_t first = max_of(0, begin * unit - before), last = min_of(a.num_rows, end * unit - before);
        for (int64_t row = first; row < last; row += unit - (row + before) % unit) {
            const int64_t stop = min_of(last, row + unit - (row + before) % unit);
            for (int64_t from = 0; from < matrix.k; from += kInputs) {
                const int64_t to = min_of(matrix.k, from + kInputs);
                for (int64_t index = row; index < stop; ++index) {
                    int64_t panel, lane;
                    place_of(matrix, a.first_row + index, panel, lane);
                    uint8_t *out = matrix.panels + panel * layout.panel_bytes;
                    const int64_t start = index * a.stride;
                    if (a.codes != nullptr) {
                        pack_code_row(layout, matrix.format, out, lane, a.codes + index * matrix.k, from, to);
                        if (from == 0) pack_scales(a, layout, index, panel, lane);
                    } else if (a.dtype == TW_FLOAT32) {
                        pack_row(matrix.format, out, lane, static_cast<const float *>(a.weights) + start, from, to);
                    } else if (a.dtype == TW_BFLOAT16) {
                        pack_row(matrix.format, out, lane, static_cast<const bf16 *>(a.weights) + start, from, to);
                    } else {
                        pack_row(matrix.format, out, lane, static_cast<const f16 *>(a.weights) + start, from, to);
                    }
                }
            }
        }
    }
    worker.sync();
}

// ---------------------------------------------------------------- packing activations

TW_INLINE int64_t tile_height(int64_t rows) {
    if (rows >= MR) return MR;
    if (rows <= 2) return rows;
    if (rows <= 4) return 4;
    return rows <= 8 && MR > 8 ? 8 : MR;
}

TW_INLINE int64_t activation_bytes(const Layout &layout, int64_t rows) {
    switch (layout.path) {
        case kPairs: return layout.inputs * 2 * rows;
        case kQuads: return layout.inputs * rows + layout.inputs / layout.step * 8 * rows;
        default: return layout.inputs * 4 * rows;
    }
}

TW_INLINE float inverse_rms(const float *x, int64_t count, float eps) {
    vf sum = zero();
    int64_t i = 0;
    for (; i + W <= count; i += W) {
        const vf v = load(x + i);
        sum = fma(v, v, sum);
    }
    const vf last = load_some(x + i, count - i);
    sum = fma(last, last, sum);
    return 1.0f / sqrtf(sum_of(sum) / static_cast<float>(count) + eps);
}

// The row as the product sees it, padded with zeros to `inputs`.
TW_INLINE void prepare_row(const tw_input &input, int64_t row, int64_t k, int64_t inputs, float *out) {
    const float *x = input.x + row * input.stride;
    if (input.norm == nullptr) {
        memcpy(out, x, static_cast<size_t>(k) * 4);
    } else {
        const vf scale = splat(inverse_rms(x, k, input.eps));
        for (int64_t i = 0; i < k; i += W)
            store_some(out + i, mul(mul(load_some(x + i, k - i), scale), load_some(input.norm + i, k - i)), k - i);
    }
    for (int64_t i = k; i < inputs; ++i) out[i] = 0.0f;
}

// Rows that are prepared before they are spread over a tile, four columns of it at a time.
constexpr int64_t kRowsTogether = 4;

// Spread up to so many rows of `count` 32-bit elements, one behind the other, over their columns of the tile.
TW_INLINE void place_rows(uint32_t *tile, int64_t height, const uint32_t *elements, int64_t rows, int64_t count) {
    int64_t i = 0;
    if (rows == kRowsTogether) {
        typedef uint32_t Four __attribute__((vector_size(16)));
        for (; i + 4 <= count; i += 4) {
            Four a, b, c, d;
            memcpy(&a, elements + i, 16);
            memcpy(&b, elements + count + i, 16);
            memcpy(&c, elements + 2 * count + i, 16);
            memcpy(&d, elements + 3 * count + i, 16);
            const Four ac0 = __builtin_shufflevector(a, c, 0, 4, 1, 5), ac1 = __builtin_shufflevector(a, c, 2, 6, 3, 7);
            const Four bd0 = __builtin_shufflevector(b, d, 0, 4, 1, 5), bd1 = __builtin_shufflevector(b, d, 2, 6, 3, 7);
            const Four columns[4] = {__builtin_shufflevector(ac0, bd0, 0, 4, 1, 5), __builtin_shufflevector(ac0, bd0, 2, 6, 3, 7),
                                     __builtin_shufflevector(ac1, bd1, 0, 4, 1, 5), __builtin_shufflevector(ac1, bd1, 2, 6, 3, 7)};
            for (int column = 0; column < 4; ++column) memcpy(tile + (i + column) * height, &columns[column], 16);
        }
    }
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t index = i; index < count; ++index) tile[index * height + row] = elements[row * count + index];
}

#if TW_LEVEL >= TW_AVX512_BF16
TW_INLINE void to_pairs(const float *x, int64_t count, uint32_t *out) {
    bf16 *halves = reinterpret_cast<bf16 *>(out);
    int64_t i = 0;
    for (; i + W <= count; i += W) {
        const __m256bh rounded = _mm512_cvtneps_pbh(load(x + i));
        memcpy(halves + i, &rounded, sizeof rounded);
    }
    for (; i < count; ++i) from_float(x[i], halves + i);
}
#else
TW_INLINE void to_pairs(const float *, int64_t, uint32_t *) {}
#endif

// Rounds `count` values to int8 with one scale; returns it, and the sum of what they became.
TW_INLINE float to_quads(const float *x, int64_t count, uint32_t *out, int32_t &sum) {
    int8_t *codes = reinterpret_cast<int8_t *>(out);
    vf largest = zero();
    int64_t i = 0;
    for (; i + W <= count; i += W) largest = vmax(largest, vmax(load(x + i), sub(zero(), load(x + i))));
    float magnitude = largest_of(largest);
    for (; i < count; ++i) magnitude = fabsf(x[i]) > magnitude ? fabsf(x[i]) : magnitude;
    const float inverse = magnitude > 0.0f ? 127.0f / magnitude : 0.0f;
    sum = 0;
    i = 0;
#if TW_LEVEL >= TW_AVX512
    __m512i sums = _mm512_setzero_si512();
    for (; i + W <= count; i += W) {
        const __m512i rounded = _mm512_cvtps_epi32(mul(load(x + i), splat(inverse)));
        sums = _mm512_add_epi32(sums, rounded);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(codes + i), _mm512_cvtepi32_epi8(rounded));
    }
    sum = _mm512_reduce_add_epi32(sums);
#endif
    for (; i < count; ++i) {
        codes[i] = static_cast<int8_t>(lrintf(x[i] * inverse));
        sum += codes[i];
    }
    return magnitude / 127.0f;
}

// Rows [first, first + rows) of the input as one tile.
TW_INLINE void pack_tile(Worker &worker, const tw_matrix &matrix, const Layout &layout, const tw_input &input,
                         int64_t first, int64_t rows, uint8_t *tile) {
    const int64_t height = tile_height(rows), inputs = layout.inputs;
    float *floats = static_cast<float *>(worker.scratch(kScratchRow, static_cast<size_t>(inputs) * 4 * (kRowsTogether + 1)));
    uint32_t *elements = reinterpret_cast<uint32_t *>(floats + inputs);
    uint32_t *out = reinterpret_cast<uint32_t *>(tile);
    const int64_t count = layout.path == kPairs ? inputs / 2 : layout.path == kQuads ? inputs / 4 : inputs;
    float *scales = reinterpret_cast<float *>(tile + inputs * height);
    int32_t *offsets = reinterpret_cast<int32_t *>(scales + inputs / layout.step * height);
    if (rows < height) memset(tile, 0, static_cast<size_t>(activation_bytes(layout, height)));
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t place = row % kRowsTogether;
        uint32_t *row_elements = height == 1 ? out : elements + place * count;
        float *row_floats = layout.path == kWiden ? reinterpret_cast<float *>(row_elements) : floats;
        prepare_row(input, first + row, matrix.k, inputs, row_floats);
        if (layout.path == kPairs) {
            to_pairs(row_floats, inputs, row_elements);
        } else if (layout.path == kQuads) {
            const int32_t constant = matrix.format == TW_W_INT8 ? 128 : 8;
            for (int64_t group = 0; group < inputs / layout.step; ++group) {
                const int64_t start = group * layout.step;
                int32_t sum;
                scales[group * height + row] = to_quads(row_floats + start, layout.step, row_elements + start / 4, sum);
                offsets[group * height + row] = -constant * sum;
            }
        }
        if (height > 1 && (place + 1 == kRowsTogether || row + 1 == rows))
            place_rows(out + row - place, height, elements, place + 1, count);
    }
}

// ---------------------------------------------------------------- microkernels: results [M, NR] += tile * panel

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
TW_INLINE void prefetch_ahead(const uint8_t *weights) {
    __builtin_prefetch(weights + kBytesAhead);
    __builtin_prefetch(weights + kBytesAhead + 64);
}

// What a product asks memory for while it computes: `step` bytes with each input, at most two cache lines.
struct Ahead {
    const uint8_t *at;
    int64_t step;

    void fetch() {
        __builtin_prefetch(at);
        __builtin_prefetch(at + 64);
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
__attribute__((noinline)) void multiply_pairs(const uint32_t *tile, const uint8_t *weights, int64_t pairs, float *results) {
    vf acc[M][2];
    load_results<M>(acc, results);
    for (int64_t i = 0; i < pairs; ++i, weights += NR * 4, tile += M) {
        if (M > 1) prefetch_ahead(weights);
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

// One group of inputs in integers: sums [M, NR]. A function of its own, or the compiler spills its registers.
template <int M, bool kFourBits>
__attribute__((noinline)) void sum_quads(const uint32_t *tile, const int32_t *offsets, const uint8_t *weights,
                                         int64_t step, __m512i *sums) {
    __m512i acc[M][2];
    TW_UNROLL for (int m = 0; m < M; ++m) acc[m][0] = acc[m][1] = _mm512_set1_epi32(offsets[m]);
    if (kFourBits) {
        const __m512i low = _mm512_set1_epi8(15);
        for (int64_t i = 0; i < step; i += 8, weights += 128, tile += 2 * M) {
            prefetch_ahead(weights);
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
        }
    } else {
        for (int64_t i = 0; i < step; i += 4, weights += 128, tile += M) {
            if (M > 1 || kFetchesForOneRow) prefetch_ahead(weights);
            const __m512i w0 = _mm512_loadu_si512(weights), w1 = _mm512_loadu_si512(weights + 64);
            TW_UNROLL for (int m = 0; m < M; ++m) {
                const __m512i x = _mm512_set1_epi32(static_cast<int32_t>(tile[m]));
                acc[m][0] = _mm512_dpbusd_epi32(acc[m][0], w0, x);
                acc[m][1] = _mm512_dpbusd_epi32(acc[m][1], w1, x);
            }
        }
    }
    TW_UNROLL for (int m = 0; m < M; ++m) {
        sums[2 * m] = acc[m][0];
        sums[2 * m + 1] = acc[m][1];
    }
}

template <int M, bool kFourBits>
void multiply_quads(const QuadArguments &a, float *results) {
    const int64_t weight_bytes = a.step * NR / (kFourBits ? 2 : 1);
    for (int64_t group = 0; group < a.groups; ++group) {
        __m512i sums[2 * M];
        sum_quads<M, kFourBits>(a.tile + group * a.step / 4 * M, a.tile_offsets + group * M,
                                a.weights + group * weight_bytes, a.step, sums);
        vf scale0 = splat(1.0f), scale1 = scale0;
        if (kFourBits) {
            scale0 = load(static_cast<const f16 *>(a.scales) + group * NR);
            scale1 = load(static_cast<const f16 *>(a.scales) + group * NR + W);
        } else if (a.scales != nullptr) {
            scale0 = load(static_cast<const float *>(a.scales) + group * NR);
            scale1 = load(static_cast<const float *>(a.scales) + group * NR + W);
        }
        for (int m = 0; m < M; ++m) {
            const vf scale = splat(a.tile_scales[group * M + m]);
            float *out = results + m * NR;
            store(out, fma(_mm512_cvtepi32_ps(sums[2 * m]), mul(scale, scale0), load(out)));
            store(out + W, fma(_mm512_cvtepi32_ps(sums[2 * m + 1]), mul(scale, scale1), load(out + W)));
        }
    }
}

// Codes of 4 bits with few rows: what unpacking and scaling cost is not shared by many, so results and sums stay in
// registers, and the upper halves of bytes are multiplied where they are: 16 times too much, taken off the sum.
template <int M>
__attribute__((noinline)) void multiply_fours(const QuadArguments &a, float *results) {
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
            prefetch_ahead(weights);
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
TW_INLINE void multiply_codes(const QuadArguments &a, float *results) {
    if constexpr (M <= 4) {
        multiply_fours<M>(a, results);
    } else {
        multiply_quads<M, true>(a, results);
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

// ---------------------------------------------------------------- one panel with a block of rows

// Inputs of a panel that are widened, or multiplied, at a time.
constexpr int64_t kWidenedInputs = 128;
constexpr int64_t kFloatInputs = 1024;
constexpr int64_t kPairedInputs = 2048;

// Inputs [from, to) of a panel of float32 or codes as float32; `from` and `to` are even, or the end.
TW_INLINE const float *widened(const tw_matrix &matrix, const Layout &layout, int64_t panel, int64_t from, int64_t to,
                               float *out) {
    const uint8_t *codes = matrix.panels + panel * layout.panel_bytes;
    if (matrix.format == TW_W_FLOAT32) return reinterpret_cast<const float *>(codes) + from * NR;
    for (int64_t i = from; i < to;) {
        const int64_t group = i / layout.group, stop = min_of(to, (group + 1) * layout.group);
        const int64_t place = (panel * layout.groups + group) * NR;
        if (matrix.format == TW_W_INT8) {
            const float *scales = static_cast<const float *>(matrix.scales) + place;
            const vf scale0 = load(scales), scale1 = load(scales + W);
            const int8_t *signed_codes = reinterpret_cast<const int8_t *>(codes);
            for (; i < stop; ++i) {
                store(out + (i - from) * NR, mul(load(signed_codes + i * NR), scale0));
                store(out + (i - from) * NR + W, mul(load(signed_codes + i * NR + W), scale1));
            }
        } else {
            const f16 *scales = static_cast<const f16 *>(matrix.scales) + place;
            float factors[NR];
            store(factors, load(scales));
            store(factors + W, load(scales + W));
            for (; i < stop; i += 2) {
                const uint8_t *bytes = codes + i / 2 * NR;
                float *low = out + (i - from) * NR, *high = low + NR;
                for (int lane = 0; lane < NR; ++lane) {
                    low[lane] = static_cast<float>((bytes[lane] & 15) - 8) * factors[lane];
                    high[lane] = static_cast<float>((bytes[lane] >> 4) - 8) * factors[lane];
                }
            }
        }
    }
    return out;
}

struct LinearArguments {
    const tw_matrix *matrix;
    tw_input input;
    int64_t num_rows;
    const float *bias;
    int32_t mode;
    float *out;
    int64_t out_stride;
};

TW_INLINE void finish_rows(const LinearArguments &a, const Layout &layout, int64_t panel, int64_t first, int64_t rows,
                           const float *results) {
    const tw_matrix &matrix = *a.matrix;
    vf scale0 = splat(1.0f), scale1 = scale0;
    const bool is_scaled = layout.path == kQuads && matrix.group == 0;
    if (is_scaled) {
        const float *scales = static_cast<const float *>(matrix.scales) + panel * NR;
        scale0 = load(scales);
        scale1 = load(scales + W);
    }
    const int64_t half = matrix.n / 2;
    const int64_t column = panel * (matrix.is_paired ? W : NR);
    const int64_t left = (matrix.is_paired ? half : matrix.n) - column;
    vf bias0 = zero(), bias1 = zero();
    if (a.bias != nullptr) {
        bias0 = load_some(a.bias + column, left);
        bias1 = matrix.is_paired ? load_some(a.bias + half + column, left) : load_some(a.bias + column + W, left - W);
    }
    for (int64_t row = 0; row < rows; ++row, results += NR) {
        vf y0 = load(results), y1 = load(results + W);
        if (is_scaled) {
            y0 = mul(y0, scale0);
            y1 = mul(y1, scale1);
        }
        y0 = add(y0, bias0);
        y1 = add(y1, bias1);
        float *out = a.out + (first + row) * a.out_stride + column;
        if (a.mode == TW_SILU_AND_MUL) {
            store_some(out, mul(silu_of(y0), y1), left);
            continue;
        }
        if (matrix.is_paired) {  // Side by side again.
            store_some(out, y0, left);
            store_some(out + half, y1, left);
            continue;
        }
        if (a.mode == TW_ADD) {
            y0 = add(y0, load_some(out, left));
            if (left > W) y1 = add(y1, load_some(out + W, left - W));
        }
        store_some(out, y0, left);
        if (left > W) store_some(out + W, y1, left - W);
    }
}

// The first of a block's tiles, with weights in 16 bits; `keeps`: there are others.
template <class T>
TW_INLINE void multiply_first(int64_t height, bool keeps, const float *x, const T *weights, int64_t inputs, float *results,
                              float *wide, Ahead ahead) {
    if (keeps) {  // Of full height.
        multiply_halves<MR, true>(x, weights, inputs, results, wide, ahead);
        return;
    }
#define TW_CALL(M) multiply_halves<M, false>(x, weights, inputs, results, wide, ahead)
    TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
}

void multiply_panel(Worker &worker, const LinearArguments &a, const Layout &layout, const uint8_t *activations,
                    int64_t panel, int64_t first, int64_t rows) {
    const tw_matrix &matrix = *a.matrix;
    const int64_t tiles = ceil_div(rows, MR), tile_bytes = activation_bytes(layout, MR);
    float *results = static_cast<float *>(worker.scratch(kScratchResults, kRowBlock * NR * 4));
    memset(results, 0, static_cast<size_t>(tiles) * MR * NR * 4);
    const uint8_t *block = activations + first / MR * tile_bytes;
    const uint8_t *codes = matrix.panels + panel * layout.panel_bytes;
    if (layout.path == kWiden) {
        const bool has_halves = matrix.format == TW_W_BFLOAT16 || matrix.format == TW_W_FLOAT16;
        const bool is_float = matrix.format == TW_W_FLOAT32;
        const int64_t piece = is_float && tiles == 1 ? kFloatInputs : kWidenedInputs;
        const int64_t input_bytes = is_float ? NR * 4 : NR * 2;
        float *buffer = static_cast<float *>(worker.scratch(kScratchWeights, kWidenedInputs * NR * 4));
        for (int64_t from = 0; from < layout.inputs; from += piece) {
            const int64_t to = min_of(layout.inputs, from + piece);
            const float *weights = has_halves ? buffer : widened(matrix, layout, panel, from, to, buffer);
            Ahead ahead{codes + from * input_bytes + kBytesAhead, input_bytes};
            if (tiles > 1) ahead = {codes + to * input_bytes, input_bytes / tiles};
            for (int64_t tile = 0; tile < tiles; ++tile, ahead.at += (to - from) * ahead.step) {
                const int64_t height = tile_height(rows - tile * MR);
                const float *x = reinterpret_cast<const float *>(block + tile * tile_bytes) + from * height;
                float *out = results + tile * MR * NR;
                if (has_halves && tile == 0) {
                    const uint8_t *halves = codes + from * NR * 2;
                    if (matrix.format == TW_W_BFLOAT16) {
                        multiply_first(height, tiles > 1, x, reinterpret_cast<const bf16 *>(halves), to - from, out, buffer,
                                       ahead);
                    } else {
                        multiply_first(height, tiles > 1, x, reinterpret_cast<const f16 *>(halves), to - from, out, buffer,
                                       ahead);
                    }
                    continue;
                }
#define TW_CALL(M) multiply_floats<M>(x, weights, to - from, out, ahead)
                TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
            }
        }
    }
#if TW_LEVEL >= TW_AVX512_BF16
    if (layout.path == kPairs) {
        for (int64_t from = 0; from < layout.inputs; from += kPairedInputs) {
            const int64_t to = min_of(layout.inputs, from + kPairedInputs);
            for (int64_t tile = 0; tile < tiles; ++tile) {
                const int64_t height = tile_height(rows - tile * MR);
                const uint32_t *x = reinterpret_cast<const uint32_t *>(block + tile * tile_bytes) + from / 2 * height;
                float *out = results + tile * MR * NR;
#define TW_CALL(M) multiply_pairs<M>(x, codes + from * NR * 2, (to - from) / 2, out)
                TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
            }
        }
    }
#endif
#if TW_LEVEL >= TW_AVX512_VNNI
    if (layout.path == kQuads) {
        QuadArguments quads;
        quads.weights = codes;
        quads.groups = layout.inputs / layout.step;
        quads.step = layout.step;
        quads.scales = nullptr;
        if (matrix.format == TW_W_INT4) {
            quads.scales = static_cast<const f16 *>(matrix.scales) + panel * layout.groups * NR;
        } else if (matrix.group != 0) {
            quads.scales = static_cast<const float *>(matrix.scales) + panel * layout.groups * NR;
        }
        for (int64_t tile = 0; tile < tiles; ++tile) {
            const int64_t height = tile_height(rows - tile * MR);
            const uint8_t *x = block + tile * tile_bytes;
            quads.tile = reinterpret_cast<const uint32_t *>(x);
            quads.tile_scales = reinterpret_cast<const float *>(x + layout.inputs * height);
            quads.tile_offsets = reinterpret_cast<const int32_t *>(quads.tile_scales + quads.groups * height);
            float *out = results + tile * MR * NR;
            if (matrix.format == TW_W_INT4) {
#define TW_CALL(M) multiply_codes<M>(quads, out)
                TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
            } else {
#define TW_CALL(M) multiply_quads<M, false>(quads, out)
                TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
            }
        }
    }
#endif
    for (int64_t tile = 0; tile < tiles; ++tile)
        finish_rows(a, layout, panel, first + tile * MR, min_of(MR, rows - tile * MR), results + tile * MR * NR);
}

// ---------------------------------------------------------------- the whole product

// Bytes of shared memory that a product of so many rows needs.
int64_t linear_bytes(const tw_matrix &matrix, int64_t num_rows) {
    return activation_bytes(layout_of(matrix), round_up(num_rows, MR));
}

// Executed by all threads; ends with a `sync`.
void linear_phase(Worker &worker, const LinearArguments &a) {
    const tw_matrix &matrix = *a.matrix;
    const Layout layout = layout_of(matrix);
    const int64_t tile_bytes = activation_bytes(layout, MR);
    uint8_t *activations;
    if (a.num_rows <= kRowsForOne || worker.num_threads() == 1) {
        activations = static_cast<uint8_t *>(worker.scratch(
            kScratchActivations, static_cast<size_t>(activation_bytes(layout, round_up(a.num_rows, MR)))));
        for (int64_t first = 0; first < a.num_rows; first += MR)
            pack_tile(worker, matrix, layout, a.input, first, min_of(MR, a.num_rows - first),
                      activations + first / MR * tile_bytes);
    } else {
        activations = static_cast<uint8_t *>(worker.shared(kSharedActivations));
        for (int64_t begin, end; worker.claim(ceil_div(a.num_rows, MR), begin, end);)
            for (int64_t tile = begin; tile < end; ++tile)
                pack_tile(worker, matrix, layout, a.input, tile * MR, min_of(MR, a.num_rows - tile * MR),
                          activations + tile * tile_bytes);
        worker.sync();
    }
    const int64_t tasks = ceil_div(a.num_rows, kRowBlock) * layout.panels;
    const int pieces = a.num_rows <= kRowsForOne ? 1 : Worker::kPieces;
    for (int64_t begin, end; worker.claim(tasks, begin, end, pieces);) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t first = task / layout.panels * kRowBlock;
            multiply_panel(worker, a, layout, activations, task % layout.panels, first,
                           min_of(kRowBlock, a.num_rows - first));
        }
    }
    worker.sync();
}

}  // namespace
