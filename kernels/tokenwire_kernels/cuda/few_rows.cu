// A product of one to four rows with a large matrix, and what stands around it in a decoder, in one launch.
//
// Every multiprocessor has one block of WARPS warps, and every warp streams rows of the matrix through a ring of
// RING steps in shared memory that is its own, two rows beside each other: with 8 of both, 64 kB are on their way
// in a multiprocessor at all times. The matrix is constant, so the ring is filled before the kernels ahead have
// ended (programmatic dependent launch): the memory does not rest between two kernels. The few rows of x are in
// shared memory, too, normalized.
//
// A warp takes pairs of outputs; a gated product's pair is a gate and what it gates. Where pairs are so few
// that some warps would have one more than others, `splits` warps share the depth of each. A step is 512 bytes of
// both rows; rows are whole steps.
//
// Compiled with WARPS and RING as numbers, and BFLOAT16 as device.cuh has it.

#include <products.cuh>

namespace {

struct Product {
    const uint4* weight;     // [outputs, vectors], gated [2 * outputs, vectors]
    const Number* x;         // [rows, in_features], rows x_stride apart
    const Number* bias;      // [outputs], gated [2 * outputs], or null
    const Number* norm;      // [in_features], or null
    const Number* residual;  // [rows, outputs], or null; may be out
    Number* out;             // [rows, outputs]
    float eps;
    int rows, outputs, vectors, x_stride;
    int split_bits;  // log2 of the warps that share a pair's depth
};

// The stream of one warp: pair after pair, and of each pair its part of both rows.
template <bool GATED>
struct Stream {
    const uint4* from;
    const long long second, jump;  // vectors from a pair's first row to its second; from its end to the next pair
    uint4* const ring;             // the lane's vectors, [RING, 2], 32 apart
    const int steps;
    int step = 0, left, slot = 0;

    __device__ Stream(const Product& p, uint4* rings, int first, int pairs, int stride, int part, int part_steps)
        : from(p.weight + static_cast<long long>(GATED ? first : 2 * first) * p.vectors + 32 * part * part_steps +
               threadIdx.x % 32),
          second(GATED ? static_cast<long long>(p.outputs) * p.vectors : p.vectors),
          jump(static_cast<long long>(GATED ? stride : 2 * stride) * p.vectors - 32 * part_steps),
          ring(rings + threadIdx.x / 32 * RING * 64 + threadIdx.x % 32),
          steps(part_steps),
          left(pairs) {}

    // Ask for the next step, in the place of the one that was taken last.
    __device__ void ask() {
        if (left > 0) {
            copy(ring + 64 * slot, from);
            copy(ring + 64 * slot + 32, from + second);
            from += 32;
            if (++step == steps) {
                step = 0;
                --left;
                from += jump;
            }
        }
        close_group();
        slot = (slot + 1) % RING;
    }

    // The oldest step that was asked for. RING were.
    __device__ void take(uint4 (&rows)[2]) {
        wait_for_all_groups_but<RING - 1>();
        rows[0] = ring[64 * slot];
        rows[1] = ring[64 * slot + 32];
    }
};

template <int ROWS, bool GATED>
__device__ void few_rows(const Product& p) {
    uint4 *rings = dynamic_shared_memory(), *x = rings + WARPS * RING * 64;
    __shared__ float parts[2][WARPS][2 * ROWS], squares[ROWS * WARPS];
    const Rows rows{p.x, p.rows, p.x_stride, p.vectors, p.norm, p.eps};
    const Outputs<GATED> outputs{p.bias, p.residual, p.out, p.outputs};
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int splits = 1 << p.split_bits, group = warp >> p.split_bits, part = warp & (splits - 1);
    const int steps = p.vectors >> (5 + p.split_bits);
    const int num_pairs = GATED ? p.outputs : p.outputs / 2, stride = gridDim.x * (WARPS >> p.split_bits);
    const int first_pair = blockIdx.x * (WARPS >> p.split_bits) + group;
    const int own_pairs = first_pair < num_pairs ? (num_pairs - first_pair - 1) / stride + 1 : 0;

    let_the_next_begin();
    Stream<GATED> stream(p, rings, first_pair, own_pairs, stride, part, steps);
    for (int at = 0; at < RING; ++at) stream.ask();
    const Rows::Weights weights = rows.weights();
    wait_for_kernels_before();
    rows.template read<ROWS>(x, squares, weights);

    const uint4* own_x = x + 32 * part * steps + lane;
    const bool finishes = part == 0 && lane < p.rows;
    for (int nth = 0; nth < own_pairs; ++nth) {
        const int pair = first_pair + nth * stride, parity = nth & 1;
        const float2 before = finishes ? outputs.before(lane, pair) : float2{};
        float sums[2][ROWS] = {};
#pragma unroll 4
        for (int step = 0; step < steps; ++step) {
            uint4 weights[2];
            stream.take(weights);
            multiply<ROWS>(sums, weights, own_x + 32 * step, p.vectors);
            stream.ask();
        }
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const float first = sum_of_warp(sums[0][row]), second = sum_of_warp(sums[1][row]);
            if (lane == row) {
                parts[parity][warp][2 * row] = first;
                parts[parity][warp][2 * row + 1] = second;
            }
        }
        wait_for_warps(group + 1, splits);
        if (finishes) {
            float first = 0.0f, second = 0.0f;
#pragma unroll 1
            for (int of = warp; of < warp + splits; ++of) {
                first += parts[parity][of][2 * lane];
                second += parts[parity][of][2 * lane + 1];
            }
            outputs.write(lane, pair, first, second, before);
        }
    }
}

}  // namespace

#define KERNEL(ROWS, GATED)                                                                     \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 2) few_rows_##ROWS##_##GATED(      \
        const uint4* weight, const Number* x, const Number* bias, const Number* norm,           \
        const Number* residual, Number* out, float eps, int rows, int outputs, int vectors,     \
        int x_stride, int split_bits) {                                             \
        few_rows<ROWS, GATED>({weight, x, bias, norm, residual, out, eps, rows, outputs, vectors, \
                               x_stride, split_bits});                                  \
    }

KERNEL(1, 0)
KERNEL(1, 1)
KERNEL(2, 0)
KERNEL(2, 1)
KERNEL(4, 0)
KERNEL(4, 1)
