// Launches of few_rows.cu's kernels on a CPU.

#include "few_rows.cu"

using Kernel = void (*)(const uint4*, const Number*, const Number*, const Number*, const Number*, Number*, float, int,
                        int, int, int, int);

extern "C" void launch(int rows, int is_gated, int blocks, int shared_bytes, const uint4* weight, const Number* x,
                       const Number* bias, const Number* norm, const Number* residual, Number* out, float eps,
                       int num_rows, int outputs, int vectors, int x_stride, int split_bits) {
    const std::map<int, Kernel> kernels[] = {{{1, few_rows_1_0}, {2, few_rows_2_0}, {4, few_rows_4_0}},
                                             {{1, few_rows_1_1}, {2, few_rows_2_1}, {4, few_rows_4_1}}};
    emulation::launch(blocks, 32 * WARPS, shared_bytes, false, [&] {
        kernels[is_gated].at(rows)(weight, x, bias, norm, residual, out, eps, num_rows, outputs, vectors, x_stride,
                                   split_bits);
    });
}
