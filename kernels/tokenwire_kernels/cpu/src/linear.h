// y = x Wᵀ, with weights in panels and activations in tiles.
//
// Every output is accumulated in float32 over its inputs in one fixed order, which depends on neither the
// number of rows nor the threads: a token's result is the same alone and in a batch.
//
// Where the CPU multiplies the weights' format itself (bfloat16 pairs, int8 quads), activations are rounded to
// it: bfloat16, or int8 with one scale for each row and group of inputs. Everywhere else weights are widened
// to float32, a piece of a panel at a time, which stays in the innermost cache.

#pragma once

#include "microkernels.h"
#include "tiles.h"

namespace {

// Rows that a task multiplies with one panel: their activations stay in the second-level cache.
constexpr int64_t kRowBlock = 20 * MR;
// Up to so many rows, a tile, every thread prepares the activations for itself: one would do it, and all wait.
constexpr int64_t kRowsForOne = MR;

// ---------------------------------------------------------------- one panel with a block of rows

// Inputs of a panel that are widened, or multiplied, at a time.
constexpr int64_t kWidenedInputs = 128;
constexpr int64_t kFloatInputs = 1024;
constexpr int64_t kPairedInputs = 1024;

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
        const int64_t input_bytes = layout.panel_bytes / layout.inputs;
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
        const int64_t piece = round_up(ceil_div(layout.inputs, ceil_div(layout.inputs, kPairedInputs)), 2);
        for (int64_t from = 0; from < layout.inputs; from += piece) {
            const int64_t to = min_of(layout.inputs, from + piece);
            Ahead ahead{codes + from * NR * 2 + kBytesAhead, NR * 4};
            if (tiles > 1) ahead = {codes + to * NR * 2, NR * 4 / tiles};
            for (int64_t tile = 0; tile < tiles; ++tile, ahead.at += (to - from) / 2 * ahead.step) {
                const int64_t height = tile_height(rows - tile * MR);
                const uint32_t *x = reinterpret_cast<const uint32_t *>(block + tile * tile_bytes) + from / 2 * height;
                float *out = results + tile * MR * NR;
#define TW_CALL(M) multiply_pairs<M>(x, codes + from * NR * 2, (to - from) / 2, out, ahead)
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
        Ahead ahead{codes + kBytesAhead, 128};
        if (tiles > 1) ahead = {codes + layout.panel_bytes, 128 / tiles};
        const int64_t steps = layout.panel_bytes / 128;
        for (int64_t tile = 0; tile < tiles; ++tile, ahead.at += steps * ahead.step) {
            const int64_t height = tile_height(rows - tile * MR);
            const uint8_t *x = block + tile * tile_bytes;
            quads.tile = reinterpret_cast<const uint32_t *>(x);
            quads.tile_scales = reinterpret_cast<const float *>(x + layout.inputs * height);
            quads.tile_offsets = reinterpret_cast<const int32_t *>(quads.tile_scales + quads.groups * height);
            float *out = results + tile * MR * NR;
            if (matrix.format == TW_W_INT4) {
#define TW_CALL(M) multiply_codes<M>(quads, out, ahead)
                TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
            } else if (quads.scales != nullptr) {
#define TW_CALL(M) multiply_quads<M, kFloatScales>(quads, out, ahead)
                TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
            } else {
#define TW_CALL(M) multiply_quads<M, kNoScales>(quads, out, ahead)
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
    const int64_t units = num_units(a.num_rows);
    uint8_t *activations;
    if (a.num_rows <= kRowsForOne || worker.num_threads() == 1) {
        activations = static_cast<uint8_t *>(worker.scratch(
            kScratchActivations, static_cast<size_t>(activation_bytes(layout, round_up(a.num_rows, MR)))));
        for (int64_t unit = 0; unit < units; ++unit) pack_unit(worker, matrix, layout, a.input, a.num_rows, unit, activations);
    } else {
        activations = static_cast<uint8_t *>(worker.shared(kSharedActivations));
        for (int64_t begin, end; worker.claim(units, begin, end);)
            for (int64_t unit = begin; unit < end; ++unit)
                pack_unit(worker, matrix, layout, a.input, a.num_rows, unit, activations);
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
