// What a launch of all layers is told, and the barrier that its blocks wait at.
//
// Compiled with WARPS, HEAD_DIM and GROUP (query heads that share a key head) as numbers.

#pragma once

#include <products.cuh>

namespace {

constexpr int GROUP_NUMBERS = GROUP * HEAD_DIM;
// Of a part of the past: sums of values, largest scores, weights; in steps of 16 bytes.
constexpr int PART_NUMBERS = (GROUP * (HEAD_DIM + 2) + 3) / 4 * 4;
constexpr int PRODUCTS = 4;  // of a layer

// Addresses of one layer; biases and norms of heads are null where there are none.
struct Layer {
    const uint4 *qkv, *o, *gate_up, *down;  // [outputs, inputs / VECTOR]
    const Number *attention_norm, *mlp_norm, *q_norm, *k_norm;
    const Number *qkv_bias, *o_bias, *gate_up_bias, *down_bias;
    Number *keys, *values;  // [blocks, kv_heads, block, HEAD_DIM]
};

struct Step {
    const Layer* layers;
    Number* residual;  // [rows, hidden]
    // Nobody else's: [rows, (GROUP + 2) * kv_heads * HEAD_DIM], [rows, inner], [rows, GROUP * kv_heads * HEAD_DIM] and
    // [rows, kv_heads, splits, PART_NUMBERS].
    Number *qkv, *activated;
    Tagged *attended, *parts;
    unsigned* counters;      // blocks that came to a barrier, blocks that left; tags that were used, of any launch
    const float *cos, *sin;  // [positions, HEAD_DIM / 2]
    const int* context_lens;
    const int* tables;             // [rows, table_stride]
    const long long* cache_slots;  // -1: nowhere
    float eps, scale;
    int num_layers, rows, hidden, inner, kv_heads, table_stride, block_bits, window, splits, x_vectors;

    __device__ int q_size() const { return kv_heads * GROUP_NUMBERS; }
    __device__ int qkv_size() const { return (GROUP + 2) * kv_heads * HEAD_DIM; }
};

// A product of a layer, as its pairs are dealt out.
struct Product {
    const uint4* weight;
    int pairs, vectors;
    bool is_gated;
};

__device__ Product product_of(const Step& s, int number) {
    const Layer& layer = s.layers[number / PRODUCTS];
    switch (number % PRODUCTS) {
        case 0: return {layer.qkv, s.qkv_size() / 2, s.hidden / VECTOR, false};
        case 1: return {layer.o, s.hidden / 2, s.q_size() / VECTOR, false};
        case 2: return {layer.gate_up, s.inner, s.hidden / VECTOR, true};
        default: return {layer.down, s.hidden / 2, s.inner / VECTOR, false};
    }
}

// All WARPS of all blocks: what any wrote before is there for all behind.
struct Barrier {
    unsigned* const counter;
    unsigned expected = 0;

    __device__ void wait() {
        wait_for_warps(0, WARPS);
        if (threadIdx.x == 0) {
            expected += gridDim.x;
            raise_only(counter);
            while (height(counter) < expected) {
            }
        }
        wait_for_warps(0, WARPS);
    }

    // The last block to come leaves everything as it was before the first, but for the tags that were used.
    __device__ void leave(unsigned num_tags) {
        wait_for_warps(0, WARPS);
        if (threadIdx.x > 0 || raise(counter + 1) + 1 < gridDim.x) return;
        counter[0] = counter[1] = 0;
        counter[2] += num_tags;
    }
};

}  // namespace
