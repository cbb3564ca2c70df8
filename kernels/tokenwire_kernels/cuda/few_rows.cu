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
// Rounds where the reference rounds; sums are float32, always in the same order.
//
// Compiled with WARPS and RING as numbers, and BFLOAT16 as device.cuh has it.

#include <device.cuh>

namespace {

constexpr int VECTOR = 8;  // numbers in 16 bytes
constexpr int LOADS = 4;   // of x that a thread has on their way

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

__device__ float rounded(float wide) { return widen(narrow(wide)); }

__device__ unsigned pair_of(float first, float second) {
    return narrow(first) | static_cast<unsigned>(narrow(second)) << 16;
}

__device__ float square_of(unsigned pair) {
    return first_of(pair) * first_of(pair) + second_of(pair) * second_of(pair);
}

__device__ float sum_of_warp(float value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

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

// x, normalized if there is a norm, as [ROWS, vectors] in shared memory; rows that are not there are 0.
template <int ROWS>
__device__ void read_x(const Product& p, uint4* x) {
    __shared__ float squares[ROWS][WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float square[ROWS] = {};
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        const uint4* from = reinterpret_cast<const uint4*>(p.x + static_cast<long long>(row) * p.x_stride);
        for (int begin = threadIdx.x; begin < p.vectors; begin += LOADS * blockDim.x) {
            uint4 values[LOADS] = {};
#pragma unroll
            for (int nth = 0; nth < LOADS; ++nth) {
                const int at = begin + nth * blockDim.x;
                if (row < p.rows && at < p.vectors) values[nth] = written(from + at);
            }
#pragma unroll
            for (int nth = 0; nth < LOADS; ++nth) {
                const int at = begin + nth * blockDim.x;
                if (at < p.vectors) x[row * p.vectors + at] = values[nth];
                square[row] += square_of(values[nth].x) + square_of(values[nth].y) + square_of(values[nth].z) +
                               square_of(values[nth].w);
            }
        }
    }
    if (p.norm != nullptr) {
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const float sum = sum_of_warp(square[row]);
            if (lane == 0) squares[row][warp] = sum;
        }
        __syncthreads();
        const uint4* norm = reinterpret_cast<const uint4*>(p.norm);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const float sum = sum_of_warp(lane < WARPS ? squares[row][lane] : 0.0f);
            const float scale = 1.0f / sqrtf(sum / (p.vectors * VECTOR) + p.eps);
            // A thread normalizes what it has written itself.
            for (int at = threadIdx.x; at < p.vectors; at += blockDim.x) {
                const uint4 value = x[row * p.vectors + at], weight = __ldg(norm + at);
                const auto normalized = [scale](unsigned numbers, unsigned weights) {
                    return pair_of(rounded(first_of(numbers) * scale) * first_of(weights),
                                   rounded(second_of(numbers) * scale) * second_of(weights));
                };
                x[row * p.vectors + at] = make_uint4(normalized(value.x, weight.x), normalized(value.y, weight.y),
                                                  normalized(value.z, weight.z), normalized(value.w, weight.w));
            }
        }
    }
    __syncthreads();
}

template <int ROWS>
__device__ void multiply(float (&sums)[2][ROWS], const uint4 (&weights)[2], const uint4* x, int vectors) {
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        const uint4 numbers = x[row * vectors];
        const unsigned pairs[4] = {numbers.x, numbers.y, numbers.z, numbers.w};
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const unsigned of[4] = {weights[side].x, weights[side].y, weights[side].z, weights[side].w};
#pragma unroll
            for (int at = 0; at < 4; ++at) {
                sums[side][row] = fmaf(first_of(of[at]), first_of(pairs[at]), sums[side][row]);
                sums[side][row] = fmaf(second_of(of[at]), second_of(pairs[at]), sums[side][row]);
            }
        }
    }
}

// What stands behind the product, for one row of a pair. `before`: of the residual.
template <bool GATED>
__device__ void finish(const Product& p, int row, int pair, float first, float second, const float (&before)[2]) {
    Number* out = p.out + static_cast<long long>(row) * p.outputs;
    if (p.bias != nullptr) {
        first += widen(p.bias[GATED ? pair : 2 * pair]);
        second += widen(p.bias[GATED ? p.outputs + pair : 2 * pair + 1]);
    }
    if (GATED) {
        const float gate = rounded(first), y = gate / (1.0f + expf(-gate)) * rounded(second);
        out[pair] = narrow(p.residual == nullptr ? y : before[0] + rounded(y));
        return;
    }
    out[2 * pair] = narrow(p.residual == nullptr ? first : before[0] + rounded(first));
    out[2 * pair + 1] = narrow(p.residual == nullptr ? second : before[1] + rounded(second));
}

template <int ROWS, bool GATED>
__device__ void few_rows(const Product& p) {
    uint4 *rings = dynamic_shared_memory(), *x = rings + WARPS * RING * 64;
    __shared__ float parts[2][WARPS][2 * ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int splits = 1 << p.split_bits, group = warp >> p.split_bits, part = warp & (splits - 1);
    const int steps = p.vectors >> (5 + p.split_bits);
    const int num_pairs = GATED ? p.outputs : p.outputs / 2, stride = gridDim.x * (WARPS >> p.split_bits);
    const int first_pair = blockIdx.x * (WARPS >> p.split_bits) + group;
    const int own_pairs = first_pair < num_pairs ? (num_pairs - first_pair - 1) / stride + 1 : 0;

    let_the_next_begin();
    Stream<GATED> stream(p, rings, first_pair, own_pairs, stride, part, steps);
    for (int at = 0; at < RING; ++at) stream.ask();
    wait_for_kernels_before();
    read_x<ROWS>(p, x);

    const uint4* own_x = x + 32 * part * steps + lane;
    const bool finishes = part == 0 && lane < p.rows;
    for (int nth = 0; nth < own_pairs; ++nth) {
        const int pair = first_pair + nth * stride, parity = nth & 1;
        float before[2] = {};
        if (finishes && p.residual != nullptr) {
            const Number* residual = p.residual + static_cast<long long>(lane) * p.outputs + (GATED ? pair : 2 * pair);
            before[0] = written(residual);
            if (!GATED) before[1] = written(residual + 1);
        }
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
            finish<GATED>(p, lane, pair, first, second, before);
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
