// Attention over a paged cache: online softmax (Milakov and Gimelshein, 2018) over one block after the other.
//
// A task is one KV head of one sequence, with so many query rows (tokens times the query heads that share the
// KV head) as keep a block's keys and values in the first-level cache busy. Keys that no row of a task may see
// are never read.
//
// A row's past is summed in parts of fixed length, from fixed places on, which are then added up in order. Of a
// decode each part is a task; of several tokens a task does one part after the other. So a token's result is the
// same, to the last bit, whether it is computed alone or with others, in whatever piece of a prompt.

#pragma once

#include <type_traits>

#include "block_attention.h"
#include "elementwise.h"
#include "split.h"

namespace {

constexpr int64_t kTaskRows = kHasTileUnit ? 96 : 48;
// Keys of a part.
constexpr int64_t kPart = 256;
// A piece is padded to a multiple of so many, which get no weight, and begins at a multiple of what is summed as one.
constexpr int64_t kKeyMultiple = kHasTileUnit ? 2 * W : W;
// Up to so many rows the values are widened as they are read; for more of them once, beforehand.
constexpr int64_t kRowsThatWiden = 4;

struct AttentionTask {
    int32_t seq, kv_head;
    int32_t first_token, num_tokens;  // Within the flat batch.
    int32_t part, num_parts;
    int64_t partial;                  // Where the part's unfinished rows go, in rows; -1: it is the whole.
};

TW_INLINE int64_t padded_head(int64_t head_dim) { return round_up(head_dim, W); }
// A part's row: what was summed, the largest score, the sum of weights.
TW_INLINE int64_t partial_row(int64_t head_dim) { return padded_head(head_dim) + 16; }

TW_INLINE int64_t tokens_per_task(int64_t group) { return max_of(1, kTaskRows / group); }

TW_INLINE int64_t parts_of(const tw_sequences &sequences, int64_t seq) {
    const int64_t queries = sequences.query_starts[seq + 1] - sequences.query_starts[seq];
    return queries > 1 ? 1 : ceil_div(sequences.context_lens[seq], kPart);
}

// How many tasks a batch makes, and how many rows of parts.
TW_INLINE void count_tasks(const tw_sequences &sequences, int64_t num_heads, int64_t num_kv_heads, int64_t &tasks,
                           int64_t &rows) {
    const int64_t group = num_heads / num_kv_heads;
    tasks = rows = 0;
    for (int64_t seq = 0; seq < sequences.num_seqs; ++seq) {
        const int64_t queries = sequences.query_starts[seq + 1] - sequences.query_starts[seq];
        const int64_t parts = parts_of(sequences, seq);
        tasks += num_kv_heads * (queries > 1 ? ceil_div(queries, tokens_per_task(group)) : parts);
        if (parts > 1) rows += parts * num_heads;
    }
}

// The tasks, those of later tokens first, since they see most.
TW_INLINE void list_tasks(const tw_sequences &sequences, int64_t num_heads, int64_t num_kv_heads, AttentionTask *tasks) {
    const int64_t group = num_heads / num_kv_heads, step = tokens_per_task(group);
    int64_t partial = 0;
    for (int64_t seq = sequences.num_seqs - 1; seq >= 0; --seq) {
        const int64_t start = sequences.query_starts[seq], queries = sequences.query_starts[seq + 1] - start;
        const int64_t parts = parts_of(sequences, seq), tiles = ceil_div(queries, step);
        for (int64_t tile = tiles - 1; tile >= 0; --tile)
            for (int64_t head = 0; head < num_kv_heads; ++head)
                for (int64_t part = 0; part < parts; ++part) {
                    AttentionTask &task = *tasks++;
                    task.seq = static_cast<int32_t>(seq);
                    task.kv_head = static_cast<int32_t>(head);
                    task.first_token = static_cast<int32_t>(start + tile * step);
                    task.num_tokens = static_cast<int32_t>(min_of(step, queries - tile * step));
                    task.part = static_cast<int32_t>(part);
                    task.num_parts = static_cast<int32_t>(parts);
                    task.partial = parts > 1 ? partial : -1;
                    if (parts > 1) partial += group;
                }
    }
}

#if TW_LEVEL >= TW_AVX512_BF16
// The scores of W keys with one query, which `split_row` made. `kFetches`: as many rows of `ahead` are fetched meanwhile,
// a line with each step, so that memory works while the products do.
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
            for (int64_t byte = 0; byte < C * W * static_cast<int64_t>(sizeof(T)); byte += 64) __builtin_prefetch(line + byte);
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

template <class T>
TW_INLINE void prefetch_row(const T *row, int64_t head_dim) {
    const char *bytes = reinterpret_cast<const char *>(row);
    for (int64_t i = 0; i < head_dim * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
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

// R rows' scores become weights relative to a row's largest score so far, in their place or as `split` makes them in
// `halves` [R, 2, kKeys]; `factors`: for what was summed under the previous one. Rows side by side, since each of them
// waits for itself.
template <int R, bool kSplits>
TW_APART void weigh_rows(float *scores, [[maybe_unused]] bf16 *halves, const Seen *seen, int64_t padded, float soft_cap,
                         float *largest, float *total, float *factors) {
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
            const vf weight = weight_of(sub(load(scores + r * kKeys + key), base[r]));
            sum[r] = add(sum[r], weight);
#if TW_LEVEL >= TW_AMX
            if constexpr (kSplits) {
                split(weight, halves + r * 2 * kKeys + key, halves + r * 2 * kKeys + kKeys + key);
                continue;
            }
#endif
            store(scores + r * kKeys + key, weight);
        }
    }
    TW_UNROLL for (int r = 0; r < R; ++r) {
        factors[r] = largest[r] == now[r] ? 1.0f : expf(largest[r] - now[r]);
        total[r] = total[r] * factors[r] + sum_of(sum[r]);
        largest[r] = now[r];
    }
}

template <int R, class... Arguments>
TW_INLINE void weigh(bool splits, Arguments... arguments) {
    if (kHasTileUnit && splits) {
        weigh_rows<R, kHasTileUnit>(arguments...);
    } else {
        weigh_rows<R, false>(arguments...);
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

// The positions that a task looks at.
struct Span {
    int64_t first_position;  // Of its tokens.
    int64_t first_seen, end;
    int64_t begin;           // `first_seen`, rounded down: every key has its lane, whatever is seen before it.

    Span(const tw_attention &a, const AttentionTask &task) {
        const int64_t queries_end = a.sequences.query_starts[task.seq + 1];
        first_position = a.sequences.context_lens[task.seq] - queries_end + task.first_token;
        first_seen = a.window > 0 ? max_of(0, first_position - a.window + 1) : 0;
        end = first_position + task.num_tokens;
        if (task.partial >= 0) {
            first_seen = max_of(first_seen, task.part * kPart);
            end = min_of(end, (task.part + 1) * kPart);
        }
        begin = first_seen / kKeyMultiple * kKeyMultiple;
    }

    // Keys of the first piece.
    int64_t first_count() const { return first_seen < end ? min_of(end, (begin / kKeys + 1) * kKeys) - begin : 0; }
};

TW_INLINE const int32_t *table_of(const tw_sequences &sequences, const AttentionTask &task) {
    return sequences.block_tables + task.seq * sequences.table_stride;
}

// A decode's query, key and value are rotated, and stored, where they are first looked at: by the task that holds
// them. `rotary`: null where all of that was done before. `following`: the task to come, whose first keys are fetched
// at the end, or null.
template <class KV>
void attend(Worker &worker, [[maybe_unused]] TileUnit &unit, const tw_attention &a, const tw_rotary *rotary, const AttentionTask &task,
            const AttentionTask *following, float *partials) {
    const tw_cache_shape &shape = a.shape;
    const int64_t head_dim = shape.head_dim, dim = padded_head(head_dim);
    const int64_t group = a.num_heads / shape.num_kv_heads, rows = task.num_tokens * group;
    const int32_t *table = table_of(a.sequences, task);
    const Span span(a, task);
    const int64_t first_position = span.first_position, last_position = first_position + task.num_tokens - 1;
    const int64_t first_seen = span.first_seen, begin = span.begin, end = span.end;
    Piece<KV> pieces[2];
    int64_t count = span.first_count();
    if (count > 0) pieces[0].find(a, table, task.kv_head, begin, count, first_seen);
    for (int64_t key = 0; key < count; ++key) prefetch_row(pieces[0].keys[key], head_dim);
    if (rotary != nullptr && end > last_position)
        rotate_into_cache<float>(*rotary, task.first_token, task.kv_head);

    // Row r is query head r % group of token r / group.
    float *q = static_cast<float *>(worker.scratch(
        kScratchActivations, static_cast<size_t>(3 * rows * dim + rows * (2 * kKeys + 5) + kKeys * dim) * 4));
    float *out = q + rows * dim, *scores = out + rows * dim, *buffer = scores + rows * kKeys;
    float *whole = buffer + kKeys * dim, *weights = whole + rows * dim, *largest = weights + rows * kKeys;
    float *total = largest + rows, *factors = total + rows, *whole_largest = factors + rows, *whole_total = whole_largest + rows;
    const auto sums_of_part = [&](int64_t row) { return Sums{out + row * dim, largest + row, total + row}; };
    const auto sums_of_all = [&](int64_t row) {
        return Sums{whole + row * dim, whole_largest + row, whole_total + row};
    };
    const auto end_part = [&] {
        for (int64_t row = 0; row < rows; ++row) {
            sums_of_all(row).add_part(out + row * dim, largest[row], total[row], dim);
            sums_of_part(row).clear(dim);
        }
    };
    const bool has_one_part = task.partial >= 0 || begin / kPart == (end - 1) / kPart;
    constexpr bool kSplits = kDotsBfloat16 && std::is_same_v<KV, bf16>;
    const bool splits = kSplits && head_dim % (2 * W) == 0;
    // On the tile unit. It takes keys, and then values, as they are laid out here.
    constexpr bool kInBlocks = kHasTileUnit && kSplits;
    const bool in_blocks = kInBlocks && splits;
    [[maybe_unused]] bf16 *laid = reinterpret_cast<bf16 *>(buffer);
    bf16 *halves = reinterpret_cast<bf16 *>(weights);
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t token = task.first_token + row / group, head = task.kv_head * group + row % group;
        const int64_t place = token * a.q_token_stride + head * a.q_head_stride;
        float *own = splits ? buffer : q + row * dim;
#define TW_CALL(T) widen_row(static_cast<const T *>(a.q) + place, head_dim, own)
        TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
        if (rotary != nullptr) rotate_query(*rotary, token, own);
        for (int64_t d = 0; d < head_dim; ++d) own[d] *= a.scale;
        for (int64_t d = head_dim; d < dim; ++d) own[d] = 0.0f;
#if TW_LEVEL >= TW_AVX512_BF16
        if (splits) {
            bf16 *halves = reinterpret_cast<bf16 *>(q + row * dim);
            split_row(own, dim, halves, halves + dim);
        }
#endif
        sums_of_part(row).clear(dim);
        if (!has_one_part) sums_of_all(row).clear(dim);
    }

    // Many rows share what is widened for them; few widen it as they read.
    const bool is_whole = head_dim == dim && (std::is_same_v<KV, float> || rows <= kRowsThatWiden);
    int64_t current = 0;
    for (int64_t position = begin; count > 0; current ^= 1) {
        const Piece<KV> &piece = pieces[current];
        Piece<KV> &next = pieces[current ^ 1];
        const int64_t stop = position + count, next_count = min_of(end, stop + kKeys) - stop;
        int64_t num_ahead = next_count;  // Keys in `next`.
        if (next_count > 0) {
            next.find(a, table, task.kv_head, stop, next_count, first_seen);
        } else if (following != nullptr) {
            const Span its(a, *following);
            num_ahead = its.first_count();
            if (num_ahead > 0)
                next.find(a, table_of(a.sequences, *following), following->kv_head, its.begin, num_ahead, its.first_seen);
        }
        const int64_t padded = round_up(count, kKeyMultiple);
        const float *wide[kKeys];
        [[maybe_unused]] const float *const *keys = wide;
        if constexpr (std::is_same_v<KV, float>) keys = piece.keys;
        if (!splits && (!std::is_same_v<KV, float> || head_dim != dim)) {
            widen_rows(piece.keys, padded, head_dim, dim, buffer, wide);
            keys = wide;
        }
        if constexpr (kInBlocks) {
            if (splits) score_in_blocks(unit, reinterpret_cast<bf16 *>(q), rows, dim, piece, padded, laid, scores);
        }
        for (int64_t key = 0; key < padded && !in_blocks; key += W) {
            if (!splits)
                for (int64_t i = key; i < min_of(count, key + W); ++i) prefetch_row(piece.values[i], head_dim);
            if (!is_whole)
                for (int64_t i = key; i < min_of(num_ahead, key + W); ++i) prefetch_row(next.keys[i], head_dim);
            for (int64_t row = 0; row < rows; ++row) {
#if TW_LEVEL >= TW_AVX512_BF16
                if constexpr (kSplits) {
                    if (splits) {
                        const bf16 *halves = reinterpret_cast<const bf16 *>(q + row * dim);
                        const bf16 *const *own_keys = piece.keys + key, *const *own_values = piece.values + key;
                        store(scores + row * kKeys + key, row == 0 ? score_keys<true>(halves, own_keys, dim, own_values)
                                                                   : score_keys<false>(halves, own_keys, dim, own_values));
                        continue;
                    }
                }
#endif
                store(scores + row * kKeys + key, score_keys(q + row * dim, keys + key, dim));
            }
        }
        constexpr bool kHasScales = std::is_same_v<KV, int8_t>;
        if constexpr (kHasScales) scale_columns(scores, rows, piece.keys, count, padded, head_dim);
        const auto seen_by = [&](int64_t row) {
            const int64_t own = first_position + row / group;
            return Seen{a.window > 0 ? max_of(0, own - a.window + 1 - position) : 0, min_of(count, own + 1 - position)};
        };
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4) {
            const Seen seen[4] = {seen_by(row), seen_by(row + 1), seen_by(row + 2), seen_by(row + 3)};
            weigh<4>(in_blocks, scores + row * kKeys, halves + row * 2 * kKeys, seen, padded, a.soft_cap, largest + row,
                     total + row, factors + row);
        }
        for (; row < rows; ++row) {
            const Seen seen = seen_by(row);
            weigh<1>(in_blocks, scores + row * kKeys, halves + row * 2 * kKeys, &seen, padded, a.soft_cap, largest + row,
                     total + row, factors + row);
        }
        if constexpr (kHasScales) scale_columns(scores, rows, piece.values, count, padded, head_dim);
        if constexpr (kInBlocks) {
            if (splits) {
                for (int64_t key = 0; key < num_ahead; ++key) prefetch_row(next.keys[key], head_dim);
                add_in_blocks(unit, halves, factors, rows, piece, padded, dim, laid, out);
            }
        }
        if (is_whole && !in_blocks) {
            const RowsAhead<KV> ahead{next.keys, num_ahead};
            for (int64_t i = count; i < num_ahead; ++i) prefetch_row(next.keys[i], head_dim);
            add_values(scores, factors, piece.values, count, dim, rows, out, ahead);
        } else if (!in_blocks) {
            widen_rows(piece.values, count, head_dim, dim, buffer, wide);
            add_values(scores, factors, wide, count, dim, rows, out, RowsAhead<float>{nullptr, 0});
        }
        if (!has_one_part && (stop % kPart == 0 || stop == end)) end_part();
        position = stop;
        count = next_count;
    }

    for (int64_t row = 0; row < rows; ++row) {
        if (task.partial >= 0) {
            float *partial = partials + (task.partial + row) * partial_row(head_dim);
            memcpy(partial, out + row * dim, static_cast<size_t>(dim) * 4);
            partial[dim] = largest[row];
            partial[dim + 1] = total[row];
            continue;
        }
        const Sums sums = has_one_part ? sums_of_part(row) : sums_of_all(row);
        sums.finish(a, task.first_token + row / group, task.kv_head * group + row % group, dim);
    }
}

// Row `row` of a decode whose parts are all there.
TW_INLINE void merge_row(const tw_attention &a, const AttentionTask &task, const float *partials, int64_t row) {
    const int64_t head_dim = a.shape.head_dim, dim = padded_head(head_dim), stride = partial_row(head_dim);
    const int64_t group = a.num_heads / a.shape.num_kv_heads;
    float merged[kLargestHead + 16], largest, total;
    const Sums sums{merged, &largest, &total};
    sums.clear(dim);
    for (int64_t part = 0; part < task.num_parts; ++part) {
        const float *from = partials + (task.partial + (part - task.part) * group + row) * stride;
        sums.add_part(from, from[dim], from[dim + 1], dim);
    }
    sums.finish(a, task.first_token, task.kv_head * group + row, dim);
}

// What the tasks of a step leave to each other, besides the tasks themselves.
struct AttentionPlan {
    const AttentionTask *tasks;
    int64_t num_tasks;
    float *partials;
    int32_t *finished;  // Parts, for every decode's KV head: who finishes the last one merges them.
    bool only_decodes;
};

// Executed by all threads; ends with a `sync`. `rotary`: see `attend`; only where all sequences are decodes.
void attention_phase(Worker &worker, const tw_attention &a, const tw_rotary *rotary, const AttentionPlan &plan) {
    const int64_t group = a.num_heads / a.shape.num_kv_heads;
    [[maybe_unused]] TileUnit unit;
    for (int64_t begin, end; worker.claim(plan.num_tasks, begin, end);)
        for (int64_t index = begin; index < end; ++index) {
            const AttentionTask &task = plan.tasks[index], *following = index + 1 < end ? &task + 1 : nullptr;
#define TW_CALL(KV) attend<KV>(worker, unit, a, rotary, task, following, plan.partials)
            TW_FOR_CACHE_DTYPE(a.shape.dtype, TW_CALL)
#undef TW_CALL
            if (task.partial < 0) continue;
            int32_t *finished = plan.finished + task.partial / group - task.part;
            if (__atomic_add_fetch(finished, 1, __ATOMIC_ACQ_REL) < task.num_parts) continue;
            __atomic_store_n(finished, 0, __ATOMIC_RELAXED);  // For the next layer.
            for (int64_t row = 0; row < group; ++row) merge_row(a, task, plan.partials, row);
        }
    worker.sync();
}

struct AttentionArguments {
    const tw_attention *attention;
    AttentionPlan plan;
};

void attention_body(Worker &worker, const void *argument) {
    const AttentionArguments &a = *static_cast<const AttentionArguments *>(argument);
    attention_phase(worker, *a.attention, nullptr, a.plan);
}

}  // namespace
