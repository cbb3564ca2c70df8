// A panel times a block of rows, in tiles, with the CPU's vector instructions.

#pragma once

#include "compact_products.h"

namespace {

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

// The first of a block's tiles, with weights in 16 bits; `keeps`: there are others.
template <class T>
TW_INLINE void multiply_first(int64_t height, bool keeps, const float *x, const T *weights, int64_t inputs,
                              float *results, float *wide, Ahead ahead) {
    if (keeps) {  // Of full height.
        multiply_halves<MR, true>(x, weights, inputs, results, wide, ahead);
        return;
    }
#define TW_CALL(M) multiply_halves<M, false>(x, weights, inputs, results, wide, ahead)
    TW_FOR_HEIGHT(height, TW_CALL)
#undef TW_CALL
}

// results [rows, NR] += activations * panel. There is room for results of whole tiles.
void multiply_tiles(Worker &worker, const tw_matrix &matrix, const Layout &layout, const uint8_t *activations,
                    int64_t panel, int64_t rows, float *results) {
    if (matrix.format == TW_W_COMPACT) {
        multiply_compact(worker, matrix, layout, activations, panel, rows, results);
        return;
    }
    const int64_t tiles = ceil_div(rows, MR), tile_bytes = activation_bytes(layout, MR);
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
                const float *x = reinterpret_cast<const float *>(activations + tile * tile_bytes) + from * height;
                float *out = results + tile * MR * NR;
                if (has_halves && tile == 0) {
                    const uint8_t *halves = codes + from * NR * 2;
                    if (matrix.format == TW_W_BFLOAT16) {
                        multiply_first(height, tiles > 1, x, reinterpret_cast<const bf16 *>(halves), to - from, out,
                                       buffer, ahead);
                    } else {
                        multiply_first(height, tiles > 1, x, reinterpret_cast<const f16 *>(halves), to - from, out,
                                       buffer, ahead);
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
                const uint32_t *x =
                    reinterpret_cast<const uint32_t *>(activations + tile * tile_bytes) + from / 2 * height;
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
            const uint8_t *x = activations + tile * tile_bytes;
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
}

}  // namespace
