// A softmax over keys that come piece by piece (Milakov and Gimelshein, 2018).

#pragma once

#include "elementwise.h"

namespace {

// Keys that are looked at together, at most.
constexpr int64_t kKeys = kHasTileUnit ? 128 : 64;

// The keys [low, high) of a piece that a row may see.
struct Seen {
    int64_t low, high;
};

// The scores of keys from `key` on where they are seen, else minus infinity.
TW_INLINE vf seen_scores(vf scores, int64_t key, Seen seen) {
    float lanes[W];
    for (int lane = 0; lane < W; ++lane) lanes[lane] = static_cast<float>(lane);
    const vf place = load(lanes), least = splat(static_cast<float>(seen.low - key));
    const vf most = splat(static_cast<float>(seen.high - 1 - key)), none = splat(-INFINITY);
    return where_at_most(place, most, where_at_most(least, place, scores, none), none);
}

// R rows' scores, kKeys apart, become weights relative to a row's largest score so far: `put(r, key, weights)` takes W
// of them. `factors`: for what was summed under the previous largest one. Rows side by side, since each waits for
// itself.
template <int R, class Put>
TW_INLINE void weigh_rows(float *scores, const Seen *seen, int64_t padded, float soft_cap, float *largest, float *total,
                          float *factors, Put put) {
    vf most[R], base[R], sum[R];
    bool is_whole = soft_cap <= 0.0f;
    TW_UNROLL for (int r = 0; r < R; ++r) {
        most[r] = splat(largest[r]);
        is_whole = is_whole && seen[r].low == 0 && seen[r].high == padded;
    }
    if (!is_whole) {
        for (int r = 0; r < R; ++r) {
            float *row = scores + r * kKeys;
            if (soft_cap > 0.0f)
                for (int64_t key = seen[r].low; key < seen[r].high; ++key)
                    row[key] = soft_cap * tanh_of(row[key] / soft_cap);
            for (int64_t key = 0; key < padded; key += W) store(row + key, seen_scores(load(row + key), key, seen[r]));
        }
    }
    for (int64_t key = 0; key < padded; key += W) {
        TW_UNROLL for (int r = 0; r < R; ++r) most[r] = vmax(load(scores + r * kKeys + key), most[r]);
    }
    float now[R];
    TW_UNROLL for (int r = 0; r < R; ++r) {
        now[r] = largest_of(most[r]);
        base[r] = splat(now[r] == -INFINITY ? 0.0f : now[r]);  // Where nothing was seen yet.
        sum[r] = zero();
    }
    for (int64_t key = 0; key < padded; key += W) {
        TW_UNROLL for (int r = 0; r < R; ++r) {
            const vf weights = weight_of(sub(load(scores + r * kKeys + key), base[r]));
            sum[r] = add(sum[r], weights);
            put(r, key, weights);
        }
    }
    TW_UNROLL for (int r = 0; r < R; ++r) {
        factors[r] = largest[r] == now[r] ? 1.0f : expf(largest[r] - now[r]);
        total[r] = total[r] * factors[r] + sum_of(sum[r]);
        largest[r] = now[r];
    }
}

// The softmax over a row's keys so far, unfinished: its weighted values, the largest score, the sum of weights.
struct Sums {
    float *values;  // [dim]
    float *largest, *total;

    void clear(int64_t dim) const {
        memset(values, 0, static_cast<size_t>(dim) * 4);
        *largest = -INFINITY;
        *total = 0.0f;
    }

    // Add a part's, which come after these.
    void add_part(const float *part, float part_largest, float part_total, int64_t dim) const {
        if (part_total <= 0.0f) return;  // Nothing in it may be seen.
        const float now = *largest > part_largest ? *largest : part_largest;
        const float kept = expf(*largest - now), share = expf(part_largest - now);
        for (int64_t d = 0; d < dim; d += W)
            store(values + d, fma(load(part + d), splat(share), mul(load(values + d), splat(kept))));
        *total = fmaf(part_total, share, *total * kept);
        *largest = now;
    }

    // Write the row of the output that these are all of.
    void finish(const tw_attention &a, int64_t token, int64_t head, int64_t dim) const {
        const vf inverse = splat(1.0f / *total);
        for (int64_t d = 0; d < dim; d += W) store(values + d, mul(load(values + d), inverse));
        const int64_t to = (token * a.num_heads + head) * a.shape.head_dim;
#define TW_CALL(T) narrow_row(values, a.shape.head_dim, static_cast<T *>(a.out) + to)
        TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
    }
};

}  // namespace
