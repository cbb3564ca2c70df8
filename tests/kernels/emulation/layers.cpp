// A launch of layers.cu's kernel on a CPU: all of its blocks at once.

#include "layers.cu"

extern "C" void launch(int blocks, int shared_bytes, const Layer* layers_, Number* residual, Number* qkv,
                       Number* activated, Tagged* attended, Tagged* parts, unsigned* counters, const float* cos,
                       const float* sin, const int* context_lens, const int* tables, const long long* cache_slots,
                       float eps, float scale, int num_layers, int rows, int hidden, int inner, int kv_heads,
                       int table_stride, int block_bits, int window, int splits, int x_vectors) {
    emulation::launch(blocks, 32 * (WARPS + STREAMERS), shared_bytes, true, [&] {
        layers(layers_, residual, qkv, activated, attended, parts, counters, cos, sin, context_lens, tables,
               cache_slots, eps, scale, num_layers, rows, hidden, inner, kv_heads, table_stride, block_bits, window,
               splits, x_vectors);
    });
}
