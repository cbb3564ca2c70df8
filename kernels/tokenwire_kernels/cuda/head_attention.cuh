// What a warp does of attention: queries and keys rotated, and a softmax over tokens as they come (online softmax,
// Milakov and Gimelshein, 2018), for the queries that share a head of keys. LANES lanes hold a head.

#pragma once

#include <layers_step.cuh>

namespace {

constexpr int LANES = HEAD_DIM / VECTOR;          // that hold a head
constexpr float LEAST = -1e30f, HIDDEN = -1e38f;  // scores below all others, but finite
constexpr float LOG2_E = 1.4426950408889634f;

__device__ void widen_all(uint4 numbers, float (&wide)[VECTOR]) {
    const unsigned pairs[4] = {numbers.x, numbers.y, numbers.z, numbers.w};
#pragma unroll
    for (int at = 0; at < 4; ++at) {
        wide[2 * at] = first_of(pairs[at]);
        wide[2 * at + 1] = second_of(pairs[at]);
    }
}

__device__ uint4 narrow_all(const float (&wide)[VECTOR]) {
    return make_uint4(pair_of(wide[0], wide[1]), pair_of(wide[2], wide[3]), pair_of(wide[4], wide[5]),
                      pair_of(wide[6], wide[7]));
}

// Of LANES lanes beside each other.
__device__ float sum_of_head(float value) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

// What a lane needs to normalize its numbers of heads, and to rotate them to a position.
struct Rotation {
    float cos[VECTOR], sin[VECTOR];
    uint4 q_norm = {}, k_norm = {};

    __device__ Rotation(const Step& s, const Layer& layer, int position) {
        constexpr int HALF = HEAD_DIM / 2;
        const int lane = threadIdx.x % LANES;
        const long long angles = static_cast<long long>(position) * HALF + VECTOR * lane % HALF;
#pragma unroll
        for (int at = 0; at < VECTOR; ++at) {
            cos[at] = s.cos[angles + at];
            sin[at] = s.sin[angles + at];
        }
        if (layer.q_norm != nullptr) {
            q_norm = __ldg(reinterpret_cast<const uint4*>(layer.q_norm) + lane);
            k_norm = __ldg(reinterpret_cast<const uint4*>(layer.k_norm) + lane);
        }
    }

    __device__ void apply(uint4 numbers, bool has_norm, uint4 norm, float eps, float (&x)[VECTOR]) const {
        widen_all(numbers, x);
        if (has_norm) {
            float weights[VECTOR], square = 0.0f;
            widen_all(norm, weights);
#pragma unroll
            for (int at = 0; at < VECTOR; ++at) square += x[at] * x[at];
            const float scale = 1.0f / sqrtf(sum_of_head(square) / HEAD_DIM + eps);
#pragma unroll
            for (int at = 0; at < VECTOR; ++at) x[at] = rounded(rounded(x[at] * scale) * weights[at]);
        }
#pragma unroll
        for (int at = 0; at < VECTOR; ++at) {
            const float other = __shfl_xor_sync(0xffffffffu, x[at], LANES / 2);
            const float turned = x[at] * cos[at], across = other * sin[at];
            x[at] = rounded(threadIdx.x % LANES < LANES / 2 ? turned - across : turned + across);
        }
    }
};

// What the queries of a group have seen of some tokens, in the lanes of a head.
struct OnlineSoftmax {
    float largest[GROUP], weight[GROUP] = {}, sums[GROUP][VECTOR] = {};

    __device__ OnlineSoftmax() {
#pragma unroll
        for (int query = 0; query < GROUP; ++query) largest[query] = LEAST;
    }

    // Attend to COUNT tokens more, as far as they are there.
    template <int COUNT>
    __device__ void attend(const float (&queries)[GROUP][VECTOR], const uint4 (&keys)[COUNT],
                           const uint4 (&values)[COUNT], const bool (&is_there)[COUNT]) {
        float scores[COUNT][GROUP];
#pragma unroll
        for (int token = 0; token < COUNT; ++token) {
            float key[VECTOR];
            widen_all(keys[token], key);
#pragma unroll
            for (int query = 0; query < GROUP; ++query) {
                float score = 0.0f;
#pragma unroll
                for (int at = 0; at < VECTOR; ++at) score = fmaf(queries[query][at], key[at], score);
                score = sum_of_head(score);
                scores[token][query] = is_there[token] ? score : HIDDEN;
            }
        }
#pragma unroll
        for (int query = 0; query < GROUP; ++query) {
            float most = largest[query];
#pragma unroll
            for (int token = 0; token < COUNT; ++token) most = fmaxf(most, scores[token][query]);
            scale_to(query, most);
#pragma unroll
            for (int token = 0; token < COUNT; ++token) {
                scores[token][query] = exp2f(scores[token][query] - most);
                weight[query] += scores[token][query];
            }
        }
#pragma unroll
        for (int token = 0; token < COUNT; ++token) {
            float value[VECTOR];
            widen_all(values[token], value);
#pragma unroll
            for (int query = 0; query < GROUP; ++query) {
#pragma unroll
                for (int at = 0; at < VECTOR; ++at) {
                    sums[query][at] = fmaf(scores[token][query], is_there[token] ? value[at] : 0.0f, sums[query][at]);
                }
            }
        }
    }

    // Of all streams of the warp: each of its lanes holds the same in the end.
    __device__ void merge_streams() {
#pragma unroll
        for (int distance = LANES; distance < 32; distance *= 2) {
#pragma unroll
            for (int query = 0; query < GROUP; ++query) {
                const float other = __shfl_xor_sync(0xffffffffu, largest[query], distance);
                scale_to(query, fmaxf(largest[query], other));
                weight[query] += __shfl_xor_sync(0xffffffffu, weight[query], distance);
#pragma unroll
                for (int at = 0; at < VECTOR; ++at) {
                    sums[query][at] += __shfl_xor_sync(0xffffffffu, sums[query][at], distance);
                }
            }
        }
    }

   private:
    __device__ void scale_to(int query, float most) {
        const float factor = exp2f(largest[query] - most);
        largest[query] = most;
        weight[query] *= factor;
#pragma unroll
        for (int at = 0; at < VECTOR; ++at) sums[query][at] *= factor;
    }
};

}  // namespace
