// Attention's products with the CPU's vector instructions.

#pragma once

#include "piece.h"
#include "split.h"

namespace {

// Up to so many rows the values are widened as they are read; for more of them once, beforehand.
constexpr int64_t kRowsThatWiden = 4;

#if TW_LEVEL >= TW_AVX512_BF16
// The scores of W keys with one query, which `split_row` made. `kFetches`: as many rows of `ahead` are fetched
// meanwhile, a line with each step, so that memory works while the products do.
template <bool kFetches>
TW_INLINE vf score_keys(const bf16 *q, const bf16 *const *keys, int64_t dim, const bf16 *const *ahead) {
    vf acc[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) acc[j] = zero();
    for (int64_t d = 0; d < dim; d += 2 * W) {
        const __m512bh high = reinterpret_cast<__m512bh>(_mm512_loadu_si512(q + d));
        const __m512bh low = reinterpret_cast<__m512bh>(_mm512_loadu_si512(q + dim + d));
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) {
            if (kFetches) __builtin_prefetch(ahead[j] + d);
            const __m512bh key = reinterpret_cast<__m512bh>(_mm512_loadu_si512(keys[j] + d));
            acc[j] = _mm512_dpbf16_ps(_mm512_dpbf16_ps(acc[j], key, high), key, low);
        }
    }
    return sums_of(acc);
}
#endif

// The scores of W keys with one query, in float32.
TW_INLINE vf score_keys(const float *q, const float *const *keys, int64_t dim) {
    vf acc[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) acc[j] = zero();
    for (int64_t d = 0; d < dim; d += W) {
        const vf x = load(q + d);
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) acc[j] = fma(x, load(keys[j] + d), acc[j]);
    }
    return sums_of(acc);
}

// Rows of the cache that are read next: fetched, one with each key, while others are computed with.
template <class T>
struct RowsAhead {
    const T *const *rows;
    int64_t count;  // May be 0.
};

// out[row] = out[row] * factors[row] + weights[row] * values, for R rows and C vectors from `d` on.
template <int R, int C, class T>
TW_INLINE void add_columns(const float *weights, const float *factors, const T *const *values, int64_t count,
                           int64_t dim, int64_t d, float *out, RowsAhead<T> ahead) {
    vf acc[R][C];
    TW_UNROLL for (int r = 0; r < R; ++r) {
        TW_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = mul(load(out + r * dim + d + c * W), splat(factors[r]));
    }
    for (int64_t key = 0; key < count; ++key) {
        if (key < ahead.count) {
            const uint8_t *line = reinterpret_cast<const uint8_t *>(ahead.rows[key] + d);
            constexpr int64_t kBytes = C * W * static_cast<int64_t>(sizeof(T));
            for (int64_t byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(line + byte);
        }
        vf value[C];
        TW_UNROLL for (int c = 0; c < C; ++c) value[c] = load(values[key] + d + c * W);
        TW_UNROLL for (int r = 0; r < R; ++r) {
            const vf weight = splat(weights[r * kKeys + key]);
            TW_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = fma(weight, value[c], acc[r][c]);
        }
    }
    TW_UNROLL for (int r = 0; r < R; ++r) {
        TW_UNROLL for (int c = 0; c < C; ++c) store(out + r * dim + d + c * W, acc[r][c]);
    }
}

template <int R, class T>
TW_INLINE void add_rows(const float *weights, const float *factors, const T *const *values, int64_t count, int64_t dim,
                        float *out, RowsAhead<T> ahead) {
    int64_t d = 0;
    for (; d + 4 * W <= dim; d += 4 * W) add_columns<R, 4>(weights, factors, values, count, dim, d, out, ahead);
    for (; d < dim; d += W) add_columns<R, 1>(weights, factors, values, count, dim, d, out, ahead);
}

template <class T>
TW_INLINE void add_values(const float *weights, const float *factors, const T *const *values, int64_t count,
                          int64_t dim, int64_t rows, float *out, RowsAhead<T> ahead) {
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4, ahead.count = 0)
        add_rows<4>(weights + row * kKeys, factors + row, values, count, dim, out + row * dim, ahead);
#define TW_CALL(R) add_rows<R>(weights + row * kKeys, factors + row, values, count, dim, out + row * dim, ahead)
    switch (rows - row) {
        case 1: TW_CALL(1); break;
        case 2: TW_CALL(2); break;
        case 3: TW_CALL(3); break;
        default: break;
    }
#undef TW_CALL
}

// Rows of the cache as float32 [count, dim] in `buffer`, padded with zeros; `wide` says where.
template <class T>
TW_INLINE void widen_rows(const T *const *rows, int64_t count, int64_t head_dim, int64_t dim, float *buffer,
                          const float **wide) {
    for (int64_t key = 0; key < count; ++key) {
        float *out = buffer + key * dim;
        widen_row(rows[key], head_dim, out);
        for (int64_t d = head_dim; d < dim; ++d) out[d] = 0.0f;
        wide[key] = out;
    }
}

// Each row's numbers [padded], of `rows` rows, times its key's scale, which lies behind the codes.
TW_INLINE void scale_columns(float *numbers, int64_t rows, const int8_t *const *keys, int64_t count, int64_t padded,
                             int64_t head_dim) {
    float scales[kKeys];
    for (int64_t key = 0; key < count; ++key) memcpy(scales + key, keys[key] + head_dim, 4);
    for (int64_t key = count; key < padded; ++key) scales[key] = 0.0f;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t key = 0; key < padded; key += W) {
            float *place = numbers + row * kKeys + key;
            store(place, mul(load(place), load(scales + key)));
        }
}

// The scores of all rows with `padded` keys; `keys` as float32 [dim]. What is read next is fetched meanwhile.
template <class KV>
TW_INLINE void score_in_floats(const Glance<KV> &a, const TaskRows &rows, const float *const *keys, bool fetches_next) {
    for (int64_t key = 0; key < a.padded(); key += W) {
        for (int64_t i = key; i < min_of(a.count, key + W); ++i) prefetch_row(a.piece.values[i], rows.head_dim);
        if (fetches_next)
            for (int64_t i = key; i < min_of(a.next_count, key + W); ++i) prefetch_row(a.next.keys[i], rows.head_dim);
        for (int64_t row = 0; row < rows.count; ++row)
            store(rows.scores + row * kKeys + key, score_keys(rows.queries + row * rows.dim, keys + key, rows.dim));
    }
}

#if TW_LEVEL >= TW_AVX512_BF16
// The same with queries that are split, and keys as they are.
TW_INLINE void score_in_pairs(const Glance<bf16> &a, const TaskRows &rows, bool fetches_next) {
    for (int64_t key = 0; key < a.padded(); key += W) {
        if (fetches_next)
            for (int64_t i = key; i < min_of(a.next_count, key + W); ++i) prefetch_row(a.next.keys[i], rows.head_dim);
        const bf16 *const *keys = a.piece.keys + key, *const *values = a.piece.values + key;
        for (int64_t row = 0; row < rows.count; ++row) {
            const bf16 *halves = reinterpret_cast<const bf16 *>(rows.queries + row * rows.dim);
            store(rows.scores + row * kKeys + key, row == 0 ? score_keys<true>(halves, keys, rows.dim, values)
                                                            : score_keys<false>(halves, keys, rows.dim, values));
        }
    }
}
#endif

// Add a piece to what a task's rows have seen. `splits`: queries are split.
template <class KV>
TW_APART void look_with_vectors(const Glance<KV> &a, const TaskRows &rows, [[maybe_unused]] bool splits) {
    constexpr bool kIsFloat = std::is_same_v<KV, float>, kHasScales = std::is_same_v<KV, int8_t>;
    const int64_t head_dim = rows.head_dim, dim = rows.dim, padded = a.padded();
    // Many rows share what is widened for them; few widen it as they read.
    const bool is_whole = head_dim == dim && (kIsFloat || rows.count <= kRowsThatWiden);
    const float *wide[kKeys];
    bool is_scored = false;
#if TW_LEVEL >= TW_AVX512_BF16
    if constexpr (std::is_same_v<KV, bf16>) {
        if (splits) score_in_pairs(a, rows, !is_whole);
        is_scored = splits;
    }
#endif
    if (!is_scored) {
        const float *const *keys = wide;
        if constexpr (kIsFloat) keys = a.piece.keys;
        if (!kIsFloat || head_dim != dim) {
            widen_rows(a.piece.keys, padded, head_dim, dim, rows.buffer, wide);
            keys = wide;
        }
        score_in_floats(a, rows, keys, !is_whole);
    }
    if constexpr (kHasScales) scale_columns(rows.scores, rows.count, a.piece.keys, a.count, padded, head_dim);
    a.weigh(rows.scores, 0, rows.count, padded, rows.largest, rows.total, rows.factors,
            [&](int64_t row, int64_t key, vf weights) { store(rows.scores + row * kKeys + key, weights); });
    if constexpr (kHasScales) scale_columns(rows.scores, rows.count, a.piece.values, a.count, padded, head_dim);
    if (is_whole) {
        const RowsAhead<KV> ahead{a.next.keys, a.next_count};
        for (int64_t i = a.count; i < a.next_count; ++i) prefetch_row(a.next.keys[i], head_dim);
        add_values(rows.scores, rows.factors, a.piece.values, a.count, dim, rows.count, rows.sums, ahead);
    } else {
        widen_rows(a.piece.values, a.count, head_dim, dim, rows.buffer, wide);
        add_values(rows.scores, rows.factors, wide, a.count, dim, rows.count, rows.sums, RowsAhead<float>{nullptr, 0});
    }
}

}  // namespace
