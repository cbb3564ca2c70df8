// All layers of a decoder for a few sequences that decode, in one launch.
//
// A step of so few tokens is a stream of all weights past a few numbers, and a launch for each product leaves the
// memory at rest while one kernel drains and the next one fills. Here one block stays on every multiprocessor from
// the first layer to the last: WARPS that compute, and others that send each of these its share of all matrices, in
// their order (weight_stream.cuh).
//
// What depends on each other is kept apart by barriers of all blocks, four a layer; what attention gives comes number
// by number, with a tag that tells its layer:
//
//     queries, keys, values = norm(residual) · qkv      every block has all of the residual, normalized
//     attended = attention(...)                         split_attention.cuh
//     residual += attended · o
//     activated = silu(norm(residual) · gate) * (norm(residual) · up)
//     residual += activated · down
//
// Rounds where the reference rounds, and adds in an order that depends on nothing but the step's shape.
//
// Compiled for a model's heads, with HEAD_DIM and GROUP (query heads that share a key head) as numbers, for at most
// MOST_ROWS sequences, and with WARPS, RING and ON_THEIR_WAY; and with BFLOAT16 as device.cuh has it.

#include <split_attention.cuh>
#include <weight_stream.cuh>

namespace {

__device__ void compute(const Step& s, uint4* x, uint4* rings, float* squares) {
    const int warp = threadIdx.x / 32;
    Ring ring(rings, warp);
    Deal deal(warp);
    Barrier barrier{s.counters};
    const unsigned tag = s.counters[2] + 1;  // of the first layer
    const Share share(s, min(static_cast<int>(blockIdx.x), s.rows * s.kv_heads * s.splits - 1));
    int product = 0;
    // What is read by the next product, once all blocks have written it.
    const auto read = [&](const Rows& rows, bool waits) {
        const Rows::Weights weights = rows.weights();
        if (waits) barrier.wait();
        rows.read<MOST_ROWS>(x, squares, weights);
    };
    for (int number = 0; number < s.num_layers; ++number) {
        const Layer& layer = s.layers[number];
        read({s.residual, s.rows, s.hidden, s.hidden / VECTOR, layer.attention_norm, s.eps}, number > 0);
        share.prefetch_rest(s, layer);
        multiply_all<MOST_ROWS>(ring, deal, product_of(s, product++), s.rows, x,
                                Outputs<false>{layer.qkv_bias, nullptr, s.qkv, s.qkv_size()});
        attend(s, layer, share, barrier, reinterpret_cast<float*>(x), tag + number);
        read_attended(s, x, tag + number);
        multiply_all<MOST_ROWS>(ring, deal, product_of(s, product++), s.rows, x,
                                Outputs<false>{layer.o_bias, s.residual, s.residual, s.hidden});
        read({s.residual, s.rows, s.hidden, s.hidden / VECTOR, layer.mlp_norm, s.eps}, true);
        multiply_all<MOST_ROWS>(ring, deal, product_of(s, product++), s.rows, x,
                                Outputs<true>{layer.gate_up_bias, nullptr, s.activated, s.inner});
        read({s.activated, s.rows, s.inner, s.inner / VECTOR, nullptr, 0.0f}, true);
        multiply_all<MOST_ROWS>(ring, deal, product_of(s, product++), s.rows, x,
                                Outputs<false>{layer.down_bias, s.residual, s.residual, s.hidden});
    }
    barrier.leave(s.num_layers);
}

__device__ void run(const Step& s) {
    uint4 *x = dynamic_shared_memory(), *rings = x + s.x_vectors;
    float* squares = reinterpret_cast<float*>(rings + WARPS * RING * (2 * SLOT + 1));
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp < WARPS && lane == 0) Ring(rings, warp).begin_barriers();
    show_barriers_to_copies();
    __syncthreads();
    if (warp < WARPS) {
        take_registers<232>();
        return compute(s, x, rings, squares);
    }
    give_registers_back<40>();
    if (lane < WARPS / STREAMERS) Stream(s, rings, lane * STREAMERS + warp - WARPS).run();
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * (WARPS + STREAMERS), 1) layers(
    const Layer* layers, Number* residual, Number* qkv, Number* activated, Tagged* attended, Tagged* parts,
    unsigned* counters, const float* cos, const float* sin, const int* context_lens, const int* tables,
    const long long* cache_slots, float eps, float scale, int num_layers, int rows, int hidden, int inner,
    int kv_heads, int table_stride, int block_bits, int window, int splits, int x_vectors) {
    run({layers, residual, qkv, activated, attended, parts, counters, cos, sin, context_lens, tables, cache_slots,
         eps, scale, num_layers, rows, hidden, inner, kv_heads, table_stride, block_bits, window, splits, x_vectors});
}
