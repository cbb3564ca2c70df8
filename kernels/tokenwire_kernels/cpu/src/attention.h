// Attention over a paged cache: online softmax (Milakov and Gimelshein, 2018) over one block after the other.
//
// A task is one KV head of one sequence, with so many query rows (tokens times the query heads that share the
// KV head) as keep a block's keys and values in the first-level cache busy. A decode with a long past is split
// into parts of fixed length, which are merged afterwards. Keys that no row of a task may see are never read.

#pragma once

#include "elementwise.h"

namespace {

constexpr int64_t kTaskRows = 48;
// Keys of a part of a decode, a multiple of every block size.
constexpr int64_t kPart = 512;
// Keys that are looked at together.
constexpr int64_t kKeys = 64;

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

// scores[row][key] for one query and `count` keys, padded to a multiple of W; in float32.
TW_INLINE void score_row(const float *q, const float *keys, int64_t padded_keys, int64_t dim, float *scores) {
    for (int64_t key = 0; key < padded_keys; key += W) {
        vf acc[W];
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) acc[j] = zero();
        for (int64_t d = 0; d < dim; d += W) {
            const vf x = load(q + d);
#pragma GCC unroll 16
            for (int j = 0; j < W; ++j) acc[j] = fma(x, load(keys + (key + j) * dim + d), acc[j]);
        }
        store(scores + key, sums_of(acc));
    }
}

// out[row] = out[row] * factors[row] + weights[row] * values, for R rows.
template <int R>
TW_INLINE void add_values(const float *weights, const float *factors, const float *values, int64_t count, int64_t dim,
                          float *out) {
    int64_t d = 0;
    for (; d + 4 * W <= dim; d += 4 * W) {
        vf acc[R][4];
        TW_UNROLL for (int r = 0; r < R; ++r) {
            TW_UNROLL for (int c = 0; c < 4; ++c) acc[r][c] = mul(load(out + r * dim + d + c * W), splat(factors[r]));
        }
        for (int64_t key = 0; key < count; ++key) {
            const float *value = values + key * dim + d;
            const vf v0 = load(value), v1 = load(value + W), v2 = load(value + 2 * W), v3 = load(value + 3 * W);
            TW_UNROLL for (int r = 0; r < R; ++r) {
                const vf weight = splat(weights[r * kKeys + key]);
                acc[r][0] = fma(weight, v0, acc[r][0]);
                acc[r][1] = fma(weight, v1, acc[r][1]);
                acc[r][2] = fma(weight, v2, acc[r][2]);
                acc[r][3] = fma(weight, v3, acc[r][3]);
            }
        }
        TW_UNROLL for (int r = 0; r < R; ++r) {
            TW_UNROLL for (int c = 0; c < 4; ++c) store(out + r * dim + d + c * W, acc[r][c]);
        }
    }
    for (; d < dim; d += W) {
        TW_UNROLL for (int r = 0; r < R; ++r) {
            vf acc = mul(load(out + r * dim + d), splat(factors[r]));
            for (int64_t key = 0; key < count; ++key)
                acc = fma(splat(weights[r * kKeys + key]), load(values + key * dim + d), acc);
            store(out + r * dim + d, acc);
        }
    }
}

// `count` rows of the cache as float32 [padded_keys, dim], the padding zero; the cache itself where it is that.
template <class T>
TW_INLINE const float *cached_rows(const T *rows, int64_t count, int64_t padded, int64_t head_dim, int64_t dim,
                                   float *out) {
    for (int64_t key = 0; key < count; ++key) {
        widen_row(rows + key * head_dim, head_dim, out + key * dim);
        for (int64_t d = head_dim; d < dim; ++d) out[key * dim + d] = 0.0f;
    }
    memset(out + count * dim, 0, static_cast<size_t>((padded - count) * dim) * 4);
    return out;
}
TW_INLINE const float *cached_rows(const float *rows, int64_t count, int64_t padded, int64_t head_dim, int64_t dim,
                                   float *out) {
    if (count == padded && head_dim == dim) return rows;
    for (int64_t key = 0; key < count; ++key) {
        memcpy(out + key * dim, rows + key * head_dim, static_cast<size_t>(head_dim) * 4);
        for (int64_t d = head_dim; d < dim; ++d) out[key * dim + d] = 0.0f;
    }
    memset(out + count * dim, 0, static_cast<size_t>((padded - count) * dim) * 4);
    return out;
}

// A row's scores become weights relative to its largest score so far; returns the factor for what was summed
// under the previous one. Keys outside [low, high) get no weight.
TW_INLINE float weigh_row(float *scores, int64_t low, int64_t high, int64_t padded, float soft_cap, float &largest,
                          float &total) {
    if (low >= high) {
        memset(scores, 0, static_cast<size_t>(padded) * 4);
        return 1.0f;
    }
    if (soft_cap > 0.0f)
        for (int64_t key = low; key < high; ++key) scores[key] = soft_cap * tanh_of(scores[key] / soft_cap);
    for (int64_t key = 0; key < low; ++key) scores[key] = -INFINITY;
    for (int64_t key = high; key < padded; ++key) scores[key] = -INFINITY;
    vf most = splat(largest);
    for (int64_t key = 0; key < padded; key += W) most = vmax(load(scores + key), most);
    const float now = largest_of(most);
    const vf now_everywhere = splat(now);
    vf sum = zero();
    for (int64_t key = 0; key < padded; key += W) {
        const vf weight = exp_of(sub(load(scores + key), now_everywhere));
        store(scores + key, weight);
        sum = add(sum, weight);
    }
    const float factor = largest == now ? 1.0f : expf(largest - now);
    total = total * factor + sum_of(sum);
    largest = now;
    return factor;
}

template <class KV>
void attend(Worker &worker, const tw_attention &a, const AttentionTask &task, float *partials) {
    const tw_cache_shape &shape = a.shape;
    const tw_sequences &sequences = a.sequences;
    const int64_t head_dim = shape.head_dim, dim = padded_head(head_dim);
    const int64_t group = a.num_heads / shape.num_kv_heads, rows = task.num_tokens * group;
    const int64_t context = sequences.context_lens[task.seq], queries_end = sequences.query_starts[task.seq + 1];
    const int32_t *table = sequences.block_tables + task.seq * sequences.table_stride;

    // Row r is query head r % group of token r / group.
    float *q = static_cast<float *>(worker.scratch(
        kScratchActivations, static_cast<size_t>(2 * rows * dim + rows * (kKeys + 3) + 2 * kKeys * dim) * 4 + 256));
    float *out = q + rows * dim, *scores = out + rows * dim, *largest = scores + rows * kKeys;
    float *total = largest + rows, *factors = total + rows;
    float *keys_buffer = factors + rows, *values_buffer = keys_buffer + kKeys * dim;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t token = task.first_token + row / group, head = task.kv_head * group + row % group;
        const int64_t place = token * a.q_token_stride + head * a.q_head_stride;
#define TW_CALL(T) widen_row(static_cast<const T *>(a.q) + place, head_dim, q + row * dim)
        TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
        for (int64_t d = 0; d < head_dim; ++d) q[row * dim + d] *= a.scale;
        for (int64_t d = head_dim; d < dim; ++d) q[row * dim + d] = 0.0f;
        largest[row] = -INFINITY;
        total[row] = 0.0f;
    }
    memset(out, 0, static_cast<size_t>(rows * dim) * 4);

    const int64_t first_position = context - queries_end + task.first_token;
    const int64_t last_position = first_position + task.num_tokens - 1;
    int64_t begin = a.window > 0 ? max_of(0, first_position - a.window + 1) : 0, end = last_position + 1;
    if (task.partial >= 0) {
        begin = max_of(begin, task.part * kPart);
        end = min_of(end, (task.part + 1) * kPart);
    }
    for (int64_t position = begin; position < end;) {
        const int64_t block = position / shape.block_size, offset = position % shape.block_size;
        // Pieces begin at fixed places, so that a row's sums do not depend on the rows beside it.
        const int64_t stop = min_of(end, min_of((block + 1) * shape.block_size, (position / kKeys + 1) * kKeys));
        const int64_t count = stop - position, padded = round_up(count, W);
        const int64_t place = ((table[block] * shape.num_kv_heads + task.kv_head) * shape.block_size + offset) * head_dim;
        const float *keys = cached_rows(static_cast<const KV *>(a.cache.keys) + place, count, padded, head_dim, dim,
                                        keys_buffer);
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t own = first_position + row / group;
            const int64_t low = a.window > 0 ? max_of(0, own - a.window + 1 - position) : 0;
            const int64_t high = min_of(count, own + 1 - position);
            score_row(q + row * dim, keys, padded, dim, scores + row * kKeys);
            factors[row] = weigh_row(scores + row * kKeys, low, high, padded, a.soft_cap, largest[row], total[row]);
        }
        const float *values = cached_rows(static_cast<const KV *>(a.cache.values) + place, count, count, head_dim, dim,
                                          values_buffer);
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4)
            add_values<4>(scores + row * kKeys, factors + row, values, count, dim, out + row * dim);
        switch (rows - row) {
            case 1: add_values<1>(scores + row * kKeys, factors + row, values, count, dim, out + row * dim); break;
            case 2: add_values<2>(scores + row * kKeys, factors + row, values, count, dim, out + row * dim); break;
            case 3: add_values<3>(scores + row * kKeys, factors + row, values, count, dim, out + row * dim); break;
            default: break;
        }
        position = stop;
    }

    for (int64_t row = 0; row < rows; ++row) {
        if (task.partial >= 0) {
            float *partial = partials + (task.partial + row) * partial_row(head_dim);
            memcpy(partial, out + row * dim, static_cast<size_t>(dim) * 4);
            partial[dim] = largest[row];
            partial[dim + 1] = total[row];
            continue;
        }
        const float inverse = 1.0f / total[row];
        for (int64_t d = 0; d < head_dim; ++d) out[row * dim + d] *= inverse;
        const int64_t token = task.first_token + row / group, head = task.kv_head * group + row % group;
        const int64_t to = (token * a.num_heads + head) * head_dim;
#define TW_CALL(T) narrow_row(out + row * dim, head_dim, static_cast<T *>(a.out) + to)
        TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
    }
}

// Row `row` of a task in parts: the parts' sums, each weighed by its share.
TW_INLINE void merge_row(const tw_attention &a, const AttentionTask &task, const float *partials, int64_t row) {
    const int64_t head_dim = a.shape.head_dim, dim = padded_head(head_dim), stride = partial_row(head_dim);
    const int64_t group = a.num_heads / a.shape.num_kv_heads;
    float merged[kLargestHead + 16];
    float largest = -INFINITY, total = 0.0f;
    const float *parts = partials + (task.partial + row) * stride;
    for (int64_t part = 0; part < task.num_parts; ++part) {
        const float own = parts[part * group * stride + dim];
        largest = own > largest ? own : largest;
    }
    memset(merged, 0, static_cast<size_t>(dim) * 4);
    for (int64_t part = 0; part < task.num_parts; ++part) {
        const float *from = parts + part * group * stride;
        const float weight = from[dim + 1] > 0.0f ? expf(from[dim] - largest) : 0.0f;
        total += weight * from[dim + 1];
        for (int64_t d = 0; d < dim; ++d) merged[d] += weight * from[d];
    }
    for (int64_t d = 0; d < dim; ++d) merged[d] /= total;
    const int64_t to = (task.first_token * a.num_heads + task.kv_head * group + row) * head_dim;
#define TW_CALL(T) narrow_row(merged, head_dim, static_cast<T *>(a.out) + to)
    TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
}

// Executed by all threads; ends with a `sync`.
void attention_phase(Worker &worker, const tw_attention &a, const AttentionTask *tasks, int64_t num_tasks,
                     float *partials, bool has_parts) {
    for (int64_t begin, end; worker.claim(num_tasks, begin, end);)
        for (int64_t index = begin; index < end; ++index) {
#define TW_CALL(KV) attend<KV>(worker, a, tasks[index], partials)
            TW_FOR_DTYPE(a.shape.dtype, TW_CALL)
#undef TW_CALL
        }
    worker.sync();
    if (!has_parts) return;
    for (int64_t begin, end; worker.claim(num_tasks, begin, end);)
        for (int64_t index = begin; index < end; ++index) {
            if (tasks[index].partial < 0 || tasks[index].part != 0) continue;
            for (int64_t row = 0; row < a.num_heads / a.shape.num_kv_heads; ++row)
                merge_row(a, tasks[index], partials, row);
        }
    worker.sync();
}

struct AttentionArguments {
    const tw_attention *attention;
    const AttentionTask *tasks;
    int64_t num_tasks;
    float *partials;
    bool has_parts;
};

void attention_body(Worker &worker, const void *argument) {
    const AttentionArguments &a = *static_cast<const AttentionArguments *>(argument);
    attention_phase(worker, *a.attention, a.tasks, a.num_tasks, a.partials, a.has_parts);
}

}  // namespace
