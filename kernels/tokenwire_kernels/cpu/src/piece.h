// Keys and values of some positions in the paged cache.

#pragma once

#include <type_traits>

#include "softmax.h"

namespace {

// Keys that are looked at together.
template <class KV>
constexpr int64_t kKeysOf = kHasTileUnit && std::is_same_v<KV, bf16> ? kKeys : 64;

// A piece is padded to a multiple of so many, which get no weight, and begins at a multiple of what is summed as one.
constexpr int64_t kKeyMultiple = kHasTileUnit ? 2 * W : W;

template <class T>
TW_INLINE void prefetch_row(const T *row, int64_t head_dim) {
    const char *bytes = reinterpret_cast<const char *>(row);
    for (int64_t i = 0; i < head_dim * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
}

// A run of at most kKeys positions of one KV head in the paged cache.
template <class KV>
struct Piece {
    const KV *keys[kKeys], *values[kKeys];

    // Of `count` positions from `position` on. Those before `first` repeat that one, and what is left of the last
    // vector of keys the last one: neither may be read.
    void find(const tw_attention &a, const int32_t *table, int64_t kv_head, int64_t position, int64_t count,
              int64_t first) {
        const tw_cache_shape &shape = a.shape;
        const int64_t hidden = max_of(0, first - position), row = cache_row(shape);
        for (int64_t key = hidden; key < count;) {
            const int64_t block = (position + key) / shape.block_size, offset = (position + key) % shape.block_size;
            int64_t place = ((table[block] * shape.num_kv_heads + kv_head) * shape.block_size + offset) * row;
            const int64_t stop = min_of(count, key + shape.block_size - offset);
            for (; key < stop; ++key, place += row) {
                keys[key] = static_cast<const KV *>(a.cache.keys) + place;
                values[key] = static_cast<const KV *>(a.cache.values) + place;
            }
        }
        for (int64_t key = 0; key < hidden; ++key) {
            keys[key] = keys[hidden];
            values[key] = values[hidden];
        }
        for (int64_t key = count; key % kKeyMultiple != 0; ++key) {
            keys[key] = keys[count - 1];
            values[key] = values[count - 1];
        }
    }
};

// A piece that a task looks at, and the one after it, which is fetched meanwhile.
template <class KV>
struct Glance {
    const Piece<KV> &piece, &next;
    int64_t count, next_count;  // Keys in each.
    int64_t position;           // Of the first key,
    int64_t first_position;     // and of the task's first token.
    int64_t group;              // Rows of a token.
    int64_t window;
    float soft_cap;

    int64_t padded() const { return round_up(count, kKeyMultiple); }

    Seen seen_by(int64_t row) const {
        const int64_t own = first_position + row / group;
        return {window > 0 ? max_of(0, own - window + 1 - position) : 0, min_of(count, own + 1 - position)};
    }

    // The scores of a task's rows [first, last), kKeys apart, become weights: see `weigh_rows`.
    template <class Put>
    void weigh(float *scores, int64_t first, int64_t last, int64_t padded, float *largest, float *total, float *factors,
               Put put) const {
        int64_t row = first;
        const auto weigh_some = [&]<int R>() {
            Seen seen[R];
            for (int r = 0; r < R; ++r) seen[r] = seen_by(row + r);
            const int64_t from = row - first;
            weigh_rows<R>(scores + from * kKeys, seen, padded, soft_cap, largest + row, total + row, factors + row,
                          [&](int r, int64_t key, vf weights) { put(from + r, key, weights); });
            row += R;
        };
        while (row + 4 <= last) weigh_some.template operator()<4>();
        if (row + 2 <= last) weigh_some.template operator()<2>();
        if (row < last) weigh_some.template operator()<1>();
    }
};

// What a task keeps of its rows while it goes through their past.
struct TaskRows {
    int64_t count, head_dim, dim;            // `dim`: padded.
    float *queries;                          // [count, dim], or each as `split_row` makes it of them.
    float *sums, *largest, *total;           // [count, dim], [count], [count]: of the part at hand,
    float *all_sums, *all_largest, *all_total;  // and of those before it.
    float *factors;                          // [count]
    float *scores;                           // [count, kKeys]
    float *buffer;                           // [kKeys, dim]

    static int64_t floats(int64_t count, int64_t dim) { return 3 * count * dim + count * (kKeys + 5) + kKeys * dim; }

    TaskRows(float *memory, int64_t rows, int64_t head) : count(rows), head_dim(head), dim(round_up(head, W)) {
        const auto take = [&](int64_t floats) {
            memory += floats;
            return memory - floats;
        };
        buffer = take(kKeys * dim);  // First: where memory is aligned.
        queries = take(count * dim);
        sums = take(count * dim);
        all_sums = take(count * dim);
        scores = take(count * kKeys);
        largest = take(count);
        total = take(count);
        all_largest = take(count);
        all_total = take(count);
        factors = take(count);
    }

    Sums of_part(int64_t row) const { return {sums + row * dim, largest + row, total + row}; }
    Sums of_all(int64_t row) const { return {all_sums + row * dim, all_largest + row, all_total + row}; }
    void end_part() const {
        for (int64_t row = 0; row < count; ++row) {
            of_all(row).add_part(sums + row * dim, largest[row], total[row], dim);
            of_part(row).clear(dim);
        }
    }
};

}  // namespace
