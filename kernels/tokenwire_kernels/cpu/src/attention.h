// Attention over a paged cache: online softmax over one piece after the other.
//
// A task is one KV head of one sequence, with so many query rows (tokens times the query heads that share the
// KV head) as keep a block's keys and values in the first-level cache busy. Keys that no row of a task may see
// are never read.
//
// A row's past is summed in parts of fixed length, from fixed places on, which are then added up in order. Of a
// decode each part is a task; of several tokens a task does one part after the other. So a token's result is the
// same, to the last bit, whether it is computed alone or with others, in whatever piece of a prompt.

#pragma once

#include "block_attention.h"
#include "vector_attention.h"

namespace {

constexpr int64_t kTaskRows = kHasTileUnit ? 96 : 48;
// Keys of a part.
constexpr int64_t kPart = 256;

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
TW_INLINE void list_tasks(const tw_sequences &sequences, int64_t num_heads, int64_t num_kv_heads,
                          AttentionTask *tasks) {
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

// The positions that a task looks at.
struct Span {
    int64_t first_position;  // Of its tokens.
    int64_t first_seen, end;
    int64_t begin;           // `first_seen`, rounded down: every key has its lane, whatever is seen before it.
    int64_t piece;           // Keys of a piece.

    Span(const tw_attention &a, const AttentionTask &task, int64_t keys) : piece(keys) {
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
    int64_t first_count() const { return first_seen < end ? min_of(end, (begin / piece + 1) * piece) - begin : 0; }
};

TW_INLINE const int32_t *table_of(const tw_sequences &sequences, const AttentionTask &task) {
    return sequences.block_tables + task.seq * sequences.table_stride;
}

// A row's query, scaled: query head row % group of token row / group.
TW_INLINE void take_query(const tw_attention &a, const tw_rotary *rotary, const AttentionTask &task, int64_t row,
                          [[maybe_unused]] bool splits, const TaskRows &rows) {
    const int64_t head_dim = rows.head_dim, group = a.num_heads / a.shape.num_kv_heads;
    const int64_t token = task.first_token + row / group, head = task.kv_head * group + row % group;
    const int64_t place = token * a.q_token_stride + head * a.q_head_stride;
    float *query = rows.queries + row * rows.dim, *own = splits ? rows.buffer : query;
#define TW_CALL(T) widen_row(static_cast<const T *>(a.q) + place, head_dim, own)
    TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
    if (rotary != nullptr) rotate_query(*rotary, token, own);
    for (int64_t d = 0; d < head_dim; ++d) own[d] *= a.scale;
    for (int64_t d = head_dim; d < rows.dim; ++d) own[d] = 0.0f;
#if TW_LEVEL >= TW_AVX512_BF16
    if (splits) {
        bf16 *halves = reinterpret_cast<bf16 *>(query);
        split_row(own, rows.dim, halves, halves + rows.dim);
    }
#endif
}

// A decode's query, key and value are rotated, and stored, where they are first looked at: by the task that holds
// them. `rotary`: null where all of that was done before. `following`: the task to come, whose first keys are fetched
// at the end, or null.
template <class KV>
void attend(Worker &worker, [[maybe_unused]] TileUnit &unit, const tw_attention &a, const tw_rotary *rotary,
            const AttentionTask &task, const AttentionTask *following, float *partials) {
    const int64_t head_dim = a.shape.head_dim, group = a.num_heads / a.shape.num_kv_heads;
    const int64_t count = task.num_tokens * group;
    const int32_t *table = table_of(a.sequences, task);
    const Span span(a, task, kKeysOf<KV>);
    Piece<KV> pieces[2];
    int64_t keys = span.first_count();
    if (keys > 0) pieces[0].find(a, table, task.kv_head, span.begin, keys, span.first_seen);
    for (int64_t key = 0; key < keys; ++key) prefetch_row(pieces[0].keys[key], head_dim);
    if (rotary != nullptr && span.end >= span.first_position + task.num_tokens)
        rotate_into_cache<float>(*rotary, task.first_token, task.kv_head);

    const size_t bytes = static_cast<size_t>(TaskRows::floats(count, padded_head(head_dim))) * 4;
    const TaskRows rows(static_cast<float *>(worker.scratch(kScratchActivations, bytes)), count, head_dim);
    const bool has_one_part = task.partial >= 0 || span.begin / kPart == (span.end - 1) / kPart;
    const bool splits = kDotsBfloat16 && std::is_same_v<KV, bf16> && head_dim % (2 * W) == 0;
    for (int64_t row = 0; row < count; ++row) {
        take_query(a, rotary, task, row, splits, rows);
        rows.of_part(row).clear(rows.dim);
        if (!has_one_part) rows.of_all(row).clear(rows.dim);
    }

    int64_t current = 0;
    for (int64_t position = span.begin; keys > 0; current ^= 1) {
        Piece<KV> &next = pieces[current ^ 1];
        const int64_t stop = position + keys, left = min_of(span.end, stop + span.piece) - stop;
        int64_t next_count = left;
        if (left > 0) {
            next.find(a, table, task.kv_head, stop, left, span.first_seen);
        } else if (following != nullptr) {
            const Span its(a, *following, span.piece);
            next_count = its.first_count();
            if (next_count > 0)
                next.find(a, table_of(a.sequences, *following), following->kv_head, its.begin, next_count,
                          its.first_seen);
        }
        const Glance<KV> glance{pieces[current], next,  keys,     next_count, position, span.first_position,
                                group,           a.window, a.soft_cap};
        bool is_done = false;
#if TW_LEVEL >= TW_AMX
        if constexpr (std::is_same_v<KV, bf16>) {
            if (splits) look_in_blocks(unit, glance, rows);
            is_done = splits;
        }
#endif
        if (!is_done) look_with_vectors(glance, rows, splits);
        if (!has_one_part && (stop % kPart == 0 || stop == span.end)) rows.end_part();
        position = stop;
        keys = left;
    }

    for (int64_t row = 0; row < count; ++row) {
        if (task.partial >= 0) {
            float *partial = partials + (task.partial + row) * partial_row(head_dim);
            memcpy(partial, rows.sums + row * rows.dim, static_cast<size_t>(rows.dim) * 4);
            partial[rows.dim] = rows.largest[row];
            partial[rows.dim + 1] = rows.total[row];
            continue;
        }
        const Sums sums = has_one_part ? rows.of_part(row) : rows.of_all(row);
        sums.finish(a, task.first_token + row / group, task.kv_head * group + row % group, rows.dim);
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
