// A compact panel times a block of rows, in tiles: its numbers are expanded in registers, on their way into the
// product.
//
// The sums are those of the same panel in bfloat16, bit for bit.

#pragma once

#include "compact.h"
#include "microkernels.h"
#include "tiles.h"

namespace {

#if TW_LEVEL >= TW_AVX512_BF16

typedef uint32_t TileElement;  // Two inputs of a row.
typedef bf16 Kept;             // As which a panel is kept for the tiles to come.
constexpr int64_t kKeptInputs = 256, kElementInputs = 2;

// Two inputs: acc += tile * numbers.
template <int M, bool kKeeps>
TW_INLINE void add_pair(vf acc[M][2], const TileElement *tile, const Halves numbers[2], Kept *kept) {
    if (kKeeps) {
        store_halves(kept, numbers[0]);
        store_halves(kept + NR, numbers[1]);
    }
    TW_UNROLL for (int m = 0; m < M; ++m) {
        const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(tile[m])));
        acc[m][0] = _mm512_dpbf16_ps(acc[m][0], reinterpret_cast<__m512bh>(numbers[0]), x);
        acc[m][1] = _mm512_dpbf16_ps(acc[m][1], reinterpret_cast<__m512bh>(numbers[1]), x);
    }
}

template <int M>
TW_INLINE void multiply_kept(const TileElement *tile, const Kept *kept, int64_t inputs, float *results, Ahead ahead) {
    multiply_pairs<M>(tile, reinterpret_cast<const uint8_t *>(kept), inputs / 2, results, ahead);
}

#else

typedef float TileElement;
typedef float Kept;
constexpr int64_t kKeptInputs = 128, kElementInputs = 1;

template <int M, bool kKeeps>
TW_INLINE void add_pair(vf acc[M][2], const TileElement *tile, const Halves numbers[2], Kept *kept) {
    vf w[2][2];
    widen_halves(numbers[0], w[0][0], w[1][0]);
    widen_halves(numbers[1], w[0][1], w[1][1]);
    for (int input = 0; input < 2; ++input, kept += NR, tile += M) {
        if (kKeeps) {
            store(kept, w[input][0]);
            store(kept + W, w[input][1]);
        }
        TW_UNROLL for (int m = 0; m < M; ++m) {
            const vf x = splat(tile[m]);
            acc[m][0] = fma(x, w[input][0], acc[m][0]);
            acc[m][1] = fma(x, w[input][1], acc[m][1]);
        }
    }
}

template <int M>
TW_INLINE void multiply_kept(const TileElement *tile, const Kept *kept, int64_t inputs, float *results, Ahead ahead) {
    multiply_floats<M>(tile, kept, inputs, results, ahead);
}

#endif

// Numbers that were expanded before, and patched.
struct Expanded {
    void expand(const bf16 *at, Halves numbers[2][2]) const {
        for (int half = 0; half < 4; ++half) numbers[half / 2][half % 2] = load_halves(at + half * NR);
    }
};

TW_INLINE const uint8_t *behind_four(const uint8_t *at) { return at + kCompactBytes; }
TW_INLINE const bf16 *behind_four(const bf16 *at) { return at + kFourNumbers; }

// results += tile * numbers, which `source` takes from `at`; `inputs` is a multiple of 4. `kKeeps`: the numbers are
// left in `kept` for tiles to come.
template <int M, bool kKeeps, class Source, class Bytes>
__attribute__((noinline)) void multiply_run(const TileElement *tile, const Source &source, const Bytes *at,
                                            int64_t inputs, float *results, Kept *kept, Ahead ahead) {
    vf acc[M][2];
    load_results<M>(acc, results);
    const Source local = source;
    for (int64_t i = 0; i < inputs; i += 4, at = behind_four(at), kept += kFourNumbers) {
        Halves numbers[2][2];
        local.expand(at, numbers);
        for (int pair = 0; pair < 2; ++pair, tile += 2 / kElementInputs * M) {
            if (M > 1 || kFetchesForOneRow) ahead.fetch();
            add_pair<M, kKeeps>(acc, tile, numbers[pair], kept + pair * kPairNumbers);
        }
    }
    store_results<M>(results, acc);
}

// Inputs [from, to) of a panel, and the patches from there on.
struct CompactPiece {
    const uint8_t *panel;
    Expander expander;
    Patches &patches;
    int64_t from, to;
};

// results += tile * piece: in runs from one patched place to the next, which is expanded by itself.
template <int M, bool kKeeps>
TW_INLINE void multiply_piece(const TileElement *tile, const CompactPiece &a, float *results, Kept *kept, Ahead ahead) {
    const auto behind = [&](int64_t inputs) {
        tile += inputs / kElementInputs * M;
        kept += inputs * NR;
        ahead.at += inputs / 2 * ahead.step;
    };
    for (int64_t from = a.from; from < a.to;) {
        const int64_t stop = a.patches.next_input(a.to);
        const uint8_t *run = a.panel + from / 4 * kCompactBytes;
        multiply_run<M, kKeeps>(tile, a.expander, run, stop - from, results, kept, ahead);
        behind(stop - from);
        from = stop;
        if (stop == a.to) break;
        alignas(64) bf16 numbers[kFourNumbers];
        expand_inputs(a.expander, a.patches, a.panel, stop, stop + 4, numbers);
        multiply_run<M, kKeeps>(tile, Expanded{}, numbers, 4, results, kept, ahead);
        behind(4);
        from = stop + 4;
    }
}

// results [rows, NR] += activations * panel. There is room for results of whole tiles.
void multiply_compact(Worker &worker, const tw_matrix &matrix, const Layout &layout, const uint8_t *activations,
                      int64_t panel, int64_t rows, float *results) {
    const int64_t tiles = ceil_div(rows, MR), tile_bytes = activation_bytes(layout, MR);
    const uint8_t *codes = matrix.panels + panel * layout.panel_bytes;
    const int64_t length = tiles == 1 ? layout.inputs : kKeptInputs;
    Kept *kept = static_cast<Kept *>(worker.scratch(kScratchWeights, kKeptInputs * NR * sizeof(Kept)));
    Patches patches(matrix, layout, panel);
    for (int64_t from = 0; from < layout.inputs; from += length) {
        const int64_t to = min_of(layout.inputs, from + length);
        const CompactPiece piece{codes, Expander(compact_panel(matrix, panel)), patches, from, to};
        Ahead ahead{codes + from / 4 * kCompactBytes + kBytesAhead, kCompactBytes / 2};
        if (tiles > 1) ahead = {codes + to / 4 * kCompactBytes, kCompactBytes / 2 / tiles};
        for (int64_t tile = 0; tile < tiles; ++tile) {
            const int64_t height = tile_height(rows - tile * MR);
            const TileElement *x =
                reinterpret_cast<const TileElement *>(activations + tile * tile_bytes) + from / kElementInputs * height;
            float *out = results + tile * MR * NR;
            if (tile > 0) {
                Ahead share{ahead.at, ahead.step * kElementInputs / 2};
#define TW_CALL(M) multiply_kept<M>(x, kept, to - from, out, share)
                TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
            } else if (tiles > 1) {  // Of full height.
                multiply_piece<MR, true>(x, piece, out, kept, ahead);
            } else {
#define TW_CALL(M) multiply_piece<M, false>(x, piece, out, kept, ahead)
                TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
            }
            ahead.at += (to - from) / 2 * ahead.step;
        }
    }
}

}  // namespace
