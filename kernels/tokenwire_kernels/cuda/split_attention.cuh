// Attention of few tokens over their past in a paged cache, a head of keys and a part of the past to each block.
//
// A block rotates the queries that share the head, and the row's own key, which it stores with its value where the
// part is the last. Streams of tokens, of LANES lanes each, keep a softmax of their own; these are merged in a warp, in
// a block, and over blocks: each posts what it has of its part, and adds some of the head's numbers up.

#pragma once

#include <head_attention.cuh>

namespace {

constexpr int STREAMS = WARPS * (32 / LANES);                // of tokens, in a block
constexpr int TOKENS = GROUP <= 4 ? 4 : GROUP <= 6 ? 2 : 1;  // of a stream on their way, as registers allow
constexpr int LEAST_TOKENS = 2 * STREAMS;                    // of the past, that a block attends to by itself
constexpr int NUMBERS_AT_ONCE = (GROUP_NUMBERS + THREADS - 1) / THREADS;
constexpr int LINE = 128;                                    // bytes that a prefetch asks for

// A part of what a row's token sees, and the head of keys that it is of.
struct Part {
    int row, head, split, begin, end, count;  // tokens from begin to end; parts that there are
    bool has_token;                           // the row's own, the last

    __device__ Part(const Step& s, int item)
        : row(item / s.splits / s.kv_heads), head(item / s.splits % s.kv_heads), split(item % s.splits) {
        const int context = s.context_lens[row];
        const int first = s.window > 0 ? max(0, context - s.window) : 0, seen = context - first;
        const int tokens = max(LEAST_TOKENS, (seen + s.splits - 1) / s.splits);
        count = (seen + tokens - 1) / tokens;
        begin = first + split * tokens;
        end = min(begin + tokens, context);
        has_token = end == context && begin < end;
    }
};

// Of the rows of a cache, which one a token's head is.
__device__ int row_of(const Step& s, const Part& part, int token) {
    const int block = s.tables[part.row * s.table_stride + (token >> s.block_bits)];
    return ((block * s.kv_heads + part.head) << s.block_bits) + (token & ((1 << s.block_bits) - 1));
}

// Where a record has the largest score of a number's query, and its weight behind it.
__device__ int score_place(int number) { return GROUP_NUMBERS + 2 * (number / HEAD_DIM); }

// Of one number of a group: its weighted sum, the largest score and the weight, over parts of the past.
struct Total {
    float sum = 0.0f, largest = LEAST, weight = 0.0f;

    __device__ Total() {}

    // Over the records of all warps.
    __device__ Total(const float* records, int number) {
        const float* scores = records + score_place(number);
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) largest = fmaxf(largest, scores[warp * PART_NUMBERS]);
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) {
            const float factor = exp2f(scores[warp * PART_NUMBERS] - largest);
            weight += factor * scores[warp * PART_NUMBERS + 1];
            sum += factor * records[warp * PART_NUMBERS + number];
        }
    }

    __device__ void add(float other_sum, float other_largest, float other_weight) {
        const float most = fmaxf(largest, other_largest);
        const float factor = exp2f(largest - most), other_factor = exp2f(other_largest - most);
        largest = most;
        weight = weight * factor + other_weight * other_factor;
        sum = sum * factor + other_sum * other_factor;
    }

    __device__ float mean() const { return rounded(sum / weight); }
};

// Keys and values of TOKENS of each stream's tokens, on their way.
struct Tokens {
    uint4 keys[TOKENS], values[TOKENS];

    __device__ void ask(const Layer& layer, const int (&rows)[TOKENS]) {
        const uint4* all_keys = reinterpret_cast<const uint4*>(layer.keys) + threadIdx.x % LANES;
        const uint4* all_values = reinterpret_cast<const uint4*>(layer.values) + threadIdx.x % LANES;
#pragma unroll
        for (int nth = 0; nth < TOKENS; ++nth) {
            const long long at = static_cast<long long>(rows[nth]) * LANES;
            keys[nth] = written(all_keys + at);
            values[nth] = written(all_values + at);
        }
    }
};

// A block's share of attention: a part, and the rows of the cache where its first tokens are. They are the same in
// every layer.
struct Share {
    Part part;
    int past_end;  // of the tokens that the cache has already
    int rows[TOKENS] = {};

    __device__ Share(const Step& s, int item) : part(s, item), past_end(part.end - part.has_token) {
        if (part.begin < past_end) find(s, part.begin, rows);
    }

    // The rows of this stream's tokens from `begin` on; a token's that is not there is the last one's.
    __device__ void find(const Step& s, int begin, int (&rows)[TOKENS]) const {
#pragma unroll
        for (int nth = 0; nth < TOKENS; ++nth) rows[nth] = row_of(s, part, min(token(begin, nth), past_end - 1));
    }

    __device__ static int token(int begin, int nth) { return begin + nth * STREAMS + threadIdx.x / LANES; }

    // Ask the L2 cache for the tokens behind the first.
    __device__ void prefetch_rest(const Step& s, const Layer& layer) const {
        constexpr int LINES = (2 * HEAD_DIM + LINE - 1) / LINE;
        const int begin = part.begin + STREAMS * TOKENS;
        for (int at = threadIdx.x; at < (past_end - begin) * LINES; at += THREADS) {
            const long long row = row_of(s, part, begin + at / LINES);
            const long long vector = row * LANES + at % LINES * (LINE / 16);
            prefetch(reinterpret_cast<const uint4*>(layer.keys) + vector);
            prefetch(reinterpret_cast<const uint4*>(layer.values) + vector);
        }
    }

    // The part's queries over its tokens, into shared memory: a record for each warp. `tokens`: the first.
    __device__ void attend(const Step& s, const Layer& layer, const Rotation& rotation, Tokens& tokens,
                           float* records) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % LANES, stream = threadIdx.x / LANES;
        const bool has_norm = layer.q_norm != nullptr;
        const uint4* q = reinterpret_cast<const uint4*>(s.qkv + part.row * s.qkv_size()) + lane;
        const uint4* k = q + (s.q_size() + part.head * HEAD_DIM) / VECTOR;
        uint4 numbers[GROUP], keys[1], values[1];
#pragma unroll
        for (int query = 0; query < GROUP; ++query) {
            numbers[query] = written(q + (part.head * GROUP + query) * LANES);
        }
        if (part.has_token) {
            keys[0] = written(k);
            values[0] = written(k + s.kv_heads * LANES);
        }
        float queries[GROUP][VECTOR];
#pragma unroll
        for (int query = 0; query < GROUP; ++query) {
            rotation.apply(numbers[query], has_norm, rotation.q_norm, s.eps, queries[query]);
#pragma unroll
            for (int at = 0; at < VECTOR; ++at) queries[query][at] *= s.scale * LOG2_E;
        }
        OnlineSoftmax softmax;
        if (part.has_token) {
            float key[VECTOR];
            rotation.apply(keys[0], has_norm, rotation.k_norm, s.eps, key);
            keys[0] = narrow_all(key);
            const bool is_there[1] = {stream == 0};
            softmax.attend<1>(queries, keys, values, is_there);
            const long long slot = s.cache_slots[part.row];
            if (is_there[0] && slot >= 0) {
                const long long head = ((slot >> s.block_bits) * s.kv_heads + part.head) << s.block_bits;
                const long long at = (head + (slot & ((1 << s.block_bits) - 1))) * LANES + lane;
                reinterpret_cast<uint4*>(layer.keys)[at] = keys[0];
                reinterpret_cast<uint4*>(layer.values)[at] = values[0];
            }
        }
        for (int begin = part.begin; begin < past_end; begin += STREAMS * TOKENS) {
            bool is_there[TOKENS];
#pragma unroll
            for (int nth = 0; nth < TOKENS; ++nth) is_there[nth] = token(begin, nth) < past_end;
            softmax.attend<TOKENS>(queries, tokens.keys, tokens.values, is_there);
            const int next = begin + STREAMS * TOKENS;
            if (next < past_end) {
                int rows_behind[TOKENS];
                find(s, next, rows_behind);
                tokens.ask(layer, rows_behind);
            }
        }
        softmax.merge_streams();
        if (threadIdx.x % 32 >= LANES) return;
        float* record = records + warp * PART_NUMBERS;
#pragma unroll
        for (int query = 0; query < GROUP; ++query) {
#pragma unroll
            for (int at = 0; at < VECTOR; at += 4) {
                const float(&sums)[VECTOR] = softmax.sums[query];
                *reinterpret_cast<float4*>(record + query * HEAD_DIM + VECTOR * lane + at) = {
                    sums[at], sums[at + 1], sums[at + 2], sums[at + 3]};
            }
            if (lane == 0) {
                record[GROUP_NUMBERS + 2 * query] = softmax.largest[query];
                record[GROUP_NUMBERS + 2 * query + 1] = softmax.weight[query];
            }
        }
    }
};

// What another block posts of one number: its sum over a part, and what that is weighted with.
struct Posted {
    const Tagged* record;  // null: there is none
    int number;            // -1: nobody asks for it
    Tagged sum, largest, weight;

    __device__ bool is_awaited() const { return record != nullptr && number >= 0; }

    // Read several at once; whether all are there.
    __device__ static bool read_all(Posted (&posts)[NUMBERS_AT_ONCE], unsigned tag) {
#pragma unroll
        for (Posted& post : posts) {
            if (!post.is_awaited()) continue;
            const Tagged* scores = post.record + score_place(post.number);
            post.sum = posted(post.record + post.number);
            post.largest = posted(scores);
            post.weight = posted(scores + 1);
        }
        bool all = true;
#pragma unroll
        for (const Posted& post : posts) {
            all &= !post.is_awaited() ||
                   (post.sum.tag == tag && post.largest.tag == tag && post.weight.tag == tag);
        }
        return all;
    }

    __device__ Total total() const {
        Total total;
        if (is_awaited()) total.add(sum.number, largest.number, weight.number);
        return total;
    }
};

// Add the records of a part's warps up, and then some of the numbers of all parts of the head: a lane for each part.
__device__ void finish(const Step& s, const Part& part, const float* records, unsigned tag) {
    wait_for_warps(0, WARPS);
    const int head = part.row * s.kv_heads + part.head;
    Tagged* parts = s.parts + static_cast<long long>(head) * s.splits * PART_NUMBERS;
    Tagged* out = s.attended + head * GROUP_NUMBERS;
    for (int number = threadIdx.x; number < GROUP_NUMBERS; number += THREADS) {
        const int scores = score_place(number);
        const Total total(records, number);
        if (part.count == 1) {
            post(out + number, total.mean(), tag);
            continue;
        }
        Tagged* record = parts + part.split * PART_NUMBERS;
        post(record + number, total.sum, tag);
        if (number % HEAD_DIM == 0) {
            post(record + scores, total.largest, tag);
            post(record + scores + 1, total.weight, tag);
        }
    }
    if (part.count == 1) return;
    int lanes = 2;
    while (lanes < part.count) lanes *= 2;
    const int of = threadIdx.x % lanes, groups = THREADS / lanes;
    const int numbers = (GROUP_NUMBERS + part.count - 1) / part.count;
    for (int turn = 0; turn < numbers; turn += NUMBERS_AT_ONCE * groups) {
        const int first = turn + threadIdx.x / lanes;
        Posted posts[NUMBERS_AT_ONCE];
#pragma unroll
        for (int nth = 0; nth < NUMBERS_AT_ONCE; ++nth) {
            const int at = first + nth * groups, number = part.split * numbers + at;
            const bool is_own = at < numbers && number < GROUP_NUMBERS;
            posts[nth] = {of < part.count ? parts + of * PART_NUMBERS : nullptr, is_own ? number : -1};
        }
        while (!Posted::read_all(posts, tag)) {
        }
#pragma unroll
        for (int nth = 0; nth < NUMBERS_AT_ONCE; ++nth) {
            Total total = posts[nth].total();
            for (int distance = 1; distance < lanes; distance *= 2) {
                total.add(__shfl_xor_sync(0xffffffffu, total.sum, distance),
                          __shfl_xor_sync(0xffffffffu, total.largest, distance),
                          __shfl_xor_sync(0xffffffffu, total.weight, distance));
            }
            if (of == 0 && posts[nth].number >= 0) post(out + posts[nth].number, total.mean(), tag);
        }
    }
}

// Attention of all rows, once all blocks have computed their queries, keys and values. `share`: the block's first.
__device__ void attend(const Step& s, const Layer& layer, const Share& share, Barrier& barrier, float* records,
                       unsigned tag) {
    const int items = s.rows * s.kv_heads * s.splits;
    const auto attend_to = [&](const Share& share, bool waits) {
        const bool has_part = share.part.begin < share.part.end;
        const Rotation rotation(s, layer, s.context_lens[share.part.row] - 1);
        Tokens tokens;
        if (share.part.begin < share.past_end) tokens.ask(layer, share.rows);
        if (waits) barrier.wait();
        if (!has_part) return;
        share.attend(s, layer, rotation, tokens, records);
        finish(s, share.part, records, tag);
    };
    if (static_cast<int>(blockIdx.x) >= items) return barrier.wait();
    attend_to(share, true);
    for (int item = blockIdx.x + gridDim.x; item < items; item += gridDim.x) {
        wait_for_warps(0, WARPS);
        attend_to(Share(s, item), false);
    }
}

// What attention gives, as rows in shared memory, as it comes.
__device__ void read_attended(const Step& s, uint4* x, unsigned tag) {
    constexpr int AT_ONCE = 8;
    const int count = s.rows * s.q_size();
    wait_for_warps(0, WARPS);  // attention's sums were where the rows will be
    for (int first = threadIdx.x; first < count; first += AT_ONCE * THREADS) {
        Tagged numbers[AT_ONCE];
#pragma unroll
        for (Tagged& number : numbers) number.tag = ~tag;
        for (bool all = false; !all;) {
#pragma unroll
            for (int nth = 0; nth < AT_ONCE; ++nth) {
                const int at = first + nth * THREADS;
                if (at < count && numbers[nth].tag != tag) numbers[nth] = posted(s.attended + at);
            }
            all = true;
#pragma unroll
            for (int nth = 0; nth < AT_ONCE; ++nth) {
                all &= first + nth * THREADS >= count || numbers[nth].tag == tag;
            }
        }
#pragma unroll
        for (int nth = 0; nth < AT_ONCE; ++nth) {
            const int at = first + nth * THREADS;
            if (at < count) reinterpret_cast<Number*>(x)[at] = narrow(numbers[nth].number);
        }
    }
    wait_for_warps(0, WARPS);
}

}  // namespace
