// Activations in tiles: up to MR rows, input by input, as the microkernels read them.

#pragma once

#include "panels.h"

namespace {

TW_INLINE int64_t tile_height(int64_t rows) {
    if (rows >= MR) return MR;
    if (rows <= 2) return rows;
    if (rows <= 4) return 4;
    return rows <= 8 && MR > 8 ? 8 : MR;
}

// Rows of a block: what the tile unit multiplies at once. Blocks are as high as they have rows.
constexpr int64_t kBlockRows = kUnitRows;

// Whether a product's activations are laid out in blocks, for the tile unit, rather than in tiles.
TW_INLINE bool has_blocks(const Layout &layout, int64_t num_rows) {
    return kHasTileUnit && layout.path != kWiden && num_rows >= layout.unit_rows;
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
constexpr int64_t kUnits = (MR + kRowsTogether - 1) / kRowsTogether;  // Of a tile.

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
            const Four columns[4] = {
                __builtin_shufflevector(ac0, bd0, 0, 4, 1, 5), __builtin_shufflevector(ac0, bd0, 2, 6, 3, 7),
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

// Rounds a row to the elements that its path multiplies; of `kQuads` also the scale and the offset of each group, of
// the row in its `place` among `height`.
TW_INLINE void round_row(const tw_matrix &matrix, const Layout &layout, const float *row, int64_t height, int64_t place,
                         uint32_t *elements, float *scales, int32_t *offsets) {
    if (layout.path == kPairs) {
        to_pairs(row, layout.inputs, elements);
    } else if (layout.path == kQuads) {
        const int32_t constant = matrix.format == TW_W_INT8 ? 128 : 8;
        for (int64_t group = 0; group < layout.inputs / layout.step; ++group) {
            const int64_t start = group * layout.step, to = group * height + place;
            int32_t sum;
            scales[to] = to_quads(row + start, layout.step, elements + start / 4, sum);
            offsets[to] = -constant * sum;
        }
    }
}

#if TW_LEVEL >= TW_AMX
// A row of bfloat16 goes to its `place` in a block as it is made: 32 numbers of each row, one row after the other.
TW_INLINE void place_pairs(const tw_input &input, int64_t row, int64_t k, int64_t inputs, int64_t height, int64_t place,
                           uint8_t *block) {
    const float *x = input.x + row * input.stride;
    const bool has_norm = input.norm != nullptr;
    const vf scale = splat(has_norm ? inverse_rms(x, k, input.eps) : 1.0f);
    const auto prepared = [&](int64_t i) {
        const vf v = load_some(x + i, k - i);
        return has_norm ? mul(mul(v, scale), load_some(input.norm + i, k - i)) : v;
    };
    uint8_t *out = block + place * kUnitBytes;
    for (int64_t i = 0; i < inputs; i += kUnitPairs, out += height * kUnitBytes)
        _mm512_storeu_si512(out, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(prepared(i + W), prepared(i))));
}
#else
TW_INLINE void place_pairs(const tw_input &, int64_t, int64_t, int64_t, int64_t, int64_t, uint8_t *) {}
#endif

// Up to `kRowsTogether` rows of a product's activations go into their block, `depth` bytes of each at a time.
TW_INLINE void pack_block_unit(Worker &worker, const tw_matrix &matrix, const Layout &layout, const tw_input &input,
                               int64_t num_rows, int64_t unit, uint8_t *activations) {
    const int64_t inputs = layout.inputs, depth = layout.depth;
    const int64_t first = unit * kRowsTogether / kBlockRows * kBlockRows, height = min_of(kBlockRows, num_rows - first);
    uint8_t *block = activations + first / kBlockRows * activation_bytes(layout, kBlockRows);
    float *scales = reinterpret_cast<float *>(block + inputs * height);
    int32_t *offsets = reinterpret_cast<int32_t *>(scales + inputs / layout.step * height);
    float *floats = static_cast<float *>(worker.scratch(kScratchRow, static_cast<size_t>(inputs) * 8));
    uint32_t *elements = reinterpret_cast<uint32_t *>(floats + inputs);
    for (int64_t row = unit * kRowsTogether; row < min_of((unit + 1) * kRowsTogether, num_rows); ++row) {
        const int64_t place = row - first;
        if (layout.path == kPairs) {
            place_pairs(input, row, matrix.k, inputs, height, place, block);
            continue;
        }
        prepare_row(input, row, matrix.k, inputs, floats);
        round_row(matrix, layout, floats, height, place, elements, scales, offsets);
        const uint8_t *from = reinterpret_cast<const uint8_t *>(elements);
        for (int64_t byte = 0; byte < inputs; byte += depth)
            memcpy(block + byte * height + place * depth, from + byte, static_cast<size_t>(depth));
    }
}

// Up to `kRowsTogether` rows of a product's activations go into their tile, the rows of zeros that fill up its last one
// among them: `unit` counts from the first row on.
TW_INLINE void pack_unit(Worker &worker, const tw_matrix &matrix, const Layout &layout, const tw_input &input,
                         int64_t num_rows, int64_t unit, uint8_t *activations) {
    if (has_blocks(layout, num_rows)) {
        pack_block_unit(worker, matrix, layout, input, num_rows, unit, activations);
        return;
    }
    const int64_t first = unit / kUnits * MR, place = unit % kUnits * kRowsTogether;
    const int64_t height = tile_height(num_rows - first), rows = min_of(kRowsTogether, height - place);
    const int64_t inputs = layout.inputs;
    const int64_t count = layout.path == kPairs ? inputs / 2 : layout.path == kQuads ? inputs / 4 : inputs;
    uint8_t *tile = activations + unit / kUnits * activation_bytes(layout, MR);
    uint32_t *out = reinterpret_cast<uint32_t *>(tile);
    float *scales = reinterpret_cast<float *>(tile + inputs * height);
    int32_t *offsets = reinterpret_cast<int32_t *>(scales + inputs / layout.step * height);
    const size_t bytes = static_cast<size_t>(inputs) * 4 * (kRowsTogether + 1);
    float *floats = static_cast<float *>(worker.scratch(kScratchRow, bytes));
    uint32_t *elements = height == 1 ? out : reinterpret_cast<uint32_t *>(floats + inputs);
    for (int64_t index = 0; index < rows; ++index) {
        const int64_t row = first + place + index;
        uint32_t *row_elements = elements + index * count;
        float *row_floats = layout.path == kWiden ? reinterpret_cast<float *>(row_elements) : floats;
        if (row < num_rows) {
            prepare_row(input, row, matrix.k, inputs, row_floats);
        } else {
            memset(row_floats, 0, static_cast<size_t>(inputs) * 4);
        }
        round_row(matrix, layout, row_floats, height, place + index, row_elements, scales, offsets);
    }
    if (height > 1) place_rows(out + place, height, elements, rows, count);
}

// Units of all of a product's rows.
TW_INLINE int64_t num_units(const Layout &layout, int64_t num_rows) {
    if (has_blocks(layout, num_rows)) return ceil_div(num_rows, kRowsTogether);
    const int64_t whole = num_rows / MR, rest = num_rows % MR;
    return whole * kUnits + (rest ? ceil_div(tile_height(rest), kRowsTogether) : 0);
}

}  // namespace
