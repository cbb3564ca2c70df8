// Weights in panels.
//
// A panel holds NR = 2 vectors' worth of output features, input by input, so that a product streams it from its
// first byte to its last.

#pragma once

#include "abi.h"
#include "amx.h"
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
constexpr bool kHasTileUnit = TW_LEVEL >= TW_AMX;

// Inputs of int8 activations that share a scale, where the weights do not say.
constexpr int64_t kActivationGroup = 64;

// Rows from which on the tile unit multiplies codes: with fewer, taking each group's sums out of it costs what it
// gains, as does widening codes of 4 bits.
constexpr int64_t kBytesForUnit = 9, kFoursForUnit = 33;

enum { kScratchActivations, kScratchResults, kScratchWeights, kScratchRow };
enum { kSharedActivations, kSharedQkv, kSharedAttended, kSharedGated, kSharedPartials, kSharedTasks };

// How a format is multiplied.
enum Path { kWiden, kPairs, kQuads };

TW_INLINE Path path_of(int32_t format) {
    if (kDotsBfloat16 && (format == TW_W_BFLOAT16 || format == TW_W_COMPACT)) return kPairs;
    if (kDotsInt8 && (format == TW_W_INT8 || format == TW_W_INT4)) return kQuads;
    return kWiden;
}

TW_INLINE int64_t bits_of(int32_t format) {
    switch (format) {
        case TW_W_FLOAT32: return 32;
        case TW_W_INT8: return 8;
        case TW_W_INT4: return 4;
        case TW_W_COMPACT: return 12;
        default: return 16;
    }
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
    int64_t depth;        // Bytes of inputs that the tile unit takes at a time.
    int64_t unit_rows;    // From so many rows on it multiplies them, in blocks.
};

TW_INLINE Layout layout_of(const tw_matrix &matrix) {
    Layout layout;
    layout.path = path_of(matrix.format);
    int64_t half = matrix.n / 2;
    layout.panels = matrix.is_paired ? ceil_div(half, W) : ceil_div(matrix.n, NR);
    const bool is_coded = matrix.format == TW_W_INT8 || matrix.format == TW_W_INT4;
    layout.step = matrix.group ? matrix.group : kActivationGroup;
    const int64_t inputs = kHasTileUnit ? kUnitPairs : 4;
    layout.inputs = round_up(matrix.k, layout.path == kQuads ? layout.step : matrix.group ? matrix.group : inputs);
    layout.depth = kUnitBytes;
    if (layout.path == kQuads)
        while (layout.step % layout.depth != 0) layout.depth -= 4;
    layout.unit_rows = layout.path == kPairs ? 1 : matrix.format == TW_W_INT8 ? kBytesForUnit : kFoursForUnit;
    layout.group = is_coded ? (matrix.group ? matrix.group : layout.inputs) : 0;
    layout.groups = is_coded ? layout.inputs / layout.group : 0;
    layout.panel_bytes = round_up(layout.inputs * NR * bits_of(matrix.format) / 8, 64);
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

}  // namespace
