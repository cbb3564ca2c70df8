// Attention's products on the matrix unit, over a bfloat16 cache.
//
// Scores: queries, sums of two bfloat16 each (see `split_row`), times keys, whose pairs of dimensions are laid side by
// side for it. Values: weights, rounded to bfloat16, times values, two keys' side by side. Rows are gone through in
// blocks, so that a block's scores, weights and sums stay in the first-level cache.

#pragma once

#include "amx.h"
#include "piece.h"
#include "split.h"

#if TW_LEVEL >= TW_AMX

namespace {

// Numbers of bfloat16 that the unit multiplies the rows with.
constexpr int64_t kUnitWeights = kUnitPairs * kUnitRows;

// Rows i of 32-bit lanes become lanes i.
TW_INLINE void transpose(__m512i rows[16]) {
    __m512i pairs[16], fours[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    // fours[4 * a + b], lanes 4 * c to 4 * c + 3: column 4 * c + b of rows 4 * a to 4 * a + 3.
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) {
        const __m512i even01 = _mm512_shuffle_i32x4(fours[b], fours[4 + b], 0x88);
        const __m512i odd01 = _mm512_shuffle_i32x4(fours[b], fours[4 + b], 0xdd);
        const __m512i even23 = _mm512_shuffle_i32x4(fours[8 + b], fours[12 + b], 0x88);
        const __m512i odd23 = _mm512_shuffle_i32x4(fours[8 + b], fours[12 + b], 0xdd);
        rows[b] = _mm512_shuffle_i32x4(even01, even23, 0x88);
        rows[8 + b] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
        rows[4 + b] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
        rows[12 + b] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
    }
}

// Keys as weights [dim / 32, count / 16] of the unit; `ahead[key]` is fetched meanwhile.
TW_APART void lay_keys(const bf16 *const *keys, int64_t count, int64_t dim, const bf16 *const *ahead, bf16 *out) {
    for (int64_t d = 0; d < dim; d += kUnitPairs) {
        for (int64_t key = 0; key < count; key += kUnitRows, out += kUnitWeights) {
            __m512i rows[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) {
                __builtin_prefetch(ahead[key + i] + d);
                rows[i] = _mm512_loadu_si512(keys[key + i] + d);
            }
            transpose(rows);
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) _mm512_store_si512(out + i * kUnitPairs, rows[i]);
        }
    }
}

// Values as weights [count / 32, dim / 16] of the unit; of `ahead` as many rows are fetched meanwhile as there are.
TW_APART void lay_values(const bf16 *const *values, int64_t count, int64_t dim, const bf16 *const *ahead,
                         int64_t num_ahead, bf16 *out) {
    alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t from = 0; from < count; from += kUnitPairs) {
        const bf16 *const *fetched = from < num_ahead ? ahead + from : values + from;
        for (int64_t d = 0; d < dim; d += kUnitPairs, out += 2 * kUnitWeights) {
#pragma GCC unroll 4
            for (int64_t key = 0; key < kUnitPairs; key += 2) {
                __builtin_prefetch(fetched[key] + d);
                __builtin_prefetch(fetched[key + 1] + d);
                const __m512i first = _mm512_loadu_si512(values[from + key] + d);
                const __m512i second = _mm512_loadu_si512(values[from + key + 1] + d);
                bf16 *to = out + key / 2 * kUnitPairs;
                _mm512_store_si512(to, _mm512_permutex2var_epi16(first, low, second));
                _mm512_store_si512(to + kUnitWeights, _mm512_permutex2var_epi16(first, high, second));
            }
        }
    }
}

// Rows of numbers that the unit multiplies, `stride` bytes apart; `low`: what is added to each, or null.
struct UnitRows {
    const bf16 *numbers, *low;
    int64_t stride, steps;  // Of 32 numbers.
};

// sums [rows, 16 * kTiles] (+)= rows * weights. Products of the same sums are far apart, since the unit begins one
// before it is done with another.
template <int kTiles, bool kHasLow>
TW_INLINE void multiply_unit(UnitRows a, const bf16 *weights, int64_t step, float *sums, int64_t stride, bool adds) {
    if (adds) {
        _tile_loadd(TW_SUMS0, sums, stride);
        _tile_loadd(TW_SUMS1, sums + 16, stride);
        if (kTiles > 2) {
            _tile_loadd(TW_SUMS2, sums + 32, stride);
            _tile_loadd(TW_SUMS3, sums + 48, stride);
        }
    } else {
        _tile_zero(TW_SUMS0);
        _tile_zero(TW_SUMS1);
        if (kTiles > 2) {
            _tile_zero(TW_SUMS2);
            _tile_zero(TW_SUMS3);
        }
    }
    for (int64_t i = 0; i < a.steps; ++i, a.numbers += kUnitPairs, a.low += kUnitPairs, weights += step) {
        _tile_loadd(TW_ROWS0, a.numbers, a.stride);
        _tile_loadd(TW_WEIGHTS0, weights, kUnitBytes);
        _tile_dpbf16ps(TW_SUMS0, TW_ROWS0, TW_WEIGHTS0);
        _tile_loadd(TW_WEIGHTS1, weights + kUnitWeights, kUnitBytes);
        _tile_dpbf16ps(TW_SUMS1, TW_ROWS0, TW_WEIGHTS1);
        if (kHasLow) {
            _tile_loadd(TW_ROWS1, a.low, a.stride);
            _tile_dpbf16ps(TW_SUMS0, TW_ROWS1, TW_WEIGHTS0);
            _tile_dpbf16ps(TW_SUMS1, TW_ROWS1, TW_WEIGHTS1);
        }
        if (kTiles > 2) {
            _tile_loadd(TW_WEIGHTS0, weights + 2 * kUnitWeights, kUnitBytes);
            _tile_dpbf16ps(TW_SUMS2, TW_ROWS0, TW_WEIGHTS0);
            _tile_loadd(TW_WEIGHTS1, weights + 3 * kUnitWeights, kUnitBytes);
            _tile_dpbf16ps(TW_SUMS3, TW_ROWS0, TW_WEIGHTS1);
            if (kHasLow) {
                _tile_dpbf16ps(TW_SUMS2, TW_ROWS1, TW_WEIGHTS0);
                _tile_dpbf16ps(TW_SUMS3, TW_ROWS1, TW_WEIGHTS1);
            }
        }
    }
    _tile_stored(TW_SUMS0, sums, stride);
    _tile_stored(TW_SUMS1, sums + 16, stride);
    if (kTiles > 2) {
        _tile_stored(TW_SUMS2, sums + 32, stride);
        _tile_stored(TW_SUMS3, sums + 48, stride);
    }
}

// The same for any multiple of 32 sums of a row; `weights` [steps, step].
template <bool kHasLow>
TW_APART void multiply_rows(UnitRows a, const bf16 *weights, int64_t step, float *sums, int64_t stride, int64_t columns,
                            bool adds) {
    int64_t column = 0;
    writes_are_done();
    for (; column + 64 <= columns; column += 64, weights += 4 * kUnitWeights)
        multiply_unit<4, kHasLow>(a, weights, step, sums + column, stride, adds);
    if (column < columns) multiply_unit<2, kHasLow>(a, weights, step, sums + column, stride, adds);
    writes_are_done();
}

// Add a piece to what a task's rows have seen.
TW_APART void look_in_blocks(TileUnit &unit, const Glance<bf16> &a, const TaskRows &rows) {
    const int64_t dim = rows.dim, padded = a.padded();
    bf16 *keys = reinterpret_cast<bf16 *>(rows.buffer), *values = keys + kKeys * dim;
    lay_keys(a.piece.keys, padded, dim, a.piece.values, keys);
    lay_values(a.piece.values, padded, dim, a.next.keys, a.next_count, values);
    for (int64_t key = padded; key < a.next_count; ++key) prefetch_row(a.next.keys[key], dim);
    for (int64_t first = 0; first < rows.count; first += kUnitRows) {
        const int64_t last = min_of(rows.count, first + kUnitRows);
        const int64_t seen = round_up(a.seen_by(last - 1).high, kKeyMultiple);
        if (seen <= 0) continue;
        unit.configure(last - first, last - first);
        const bf16 *high = reinterpret_cast<const bf16 *>(rows.queries + first * dim);
        float *scores = rows.scores, *sums = rows.sums + first * dim;
        multiply_rows<true>({high, high + dim, dim * 4, dim / kUnitPairs}, keys, padded / kUnitRows * kUnitWeights,
                            scores, kKeys * 4, seen, false);
        bf16 *weights = reinterpret_cast<bf16 *>(scores);  // In place of the first half of a row's scores.
        a.weigh(scores, first, last, seen, rows.largest, rows.total, rows.factors,
                [&](int64_t row, int64_t key, vf some) {
                    const __m256i rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(some));
                    _mm256_storeu_si256(reinterpret_cast<__m256i *>(weights + row * 2 * kKeys + key), rounded);
                });
        for (int64_t row = first; row < last; ++row) {
            if (rows.factors[row] == 1.0f) continue;
            float *own = rows.sums + row * dim;
            for (int64_t d = 0; d < dim; d += W) store(own + d, mul(load(own + d), splat(rows.factors[row])));
        }
        multiply_rows<false>({weights, weights, kKeys * 4, seen / kUnitPairs}, values, dim / kUnitRows * kUnitWeights,
                             sums, dim * 4, dim, true);
    }
}

}  // namespace

#endif
