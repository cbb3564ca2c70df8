// A product of one to four rows with a large matrix, and what stands around it in a decoder, in one launch.
//
// Every multiprocessor has one block of 16 warps, and every warp streams rows of the matrix through a ring of
// registers, two rows beside each other: 64 kB are on their way in a multiprocessor at all times. The matrix
// is constant, so the ring is filled before the kernels ahead have ended (programmatic dependent launch): the
// memory does not rest between two kernels. The few rows of x lie in shared memory, normalized.
//
// A warp takes pairs of outputs; a gated product's pair is a gate and what it gates. Where pairs are so few
// that some warps would have one more than others, `splits` warps share the depth of each.
//
// Rounds where the reference rounds; sums are float32, always in the same order.

#include <device.cuh>

namespace {

constexpr int WARPS = 16;
constexpr int VECTOR = 8;  // numbers in 16 bytes

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
    int prefetched;
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
    const Product& p;
    const int begin, end, past_end;  // vectors of a row that are the lane's own; then where its steps end
    int pair, vector;
    const uint4* row;

    __device__ Stream(const Product& product, int lane, int group, int part, int part_vectors)
        : p(product),
          begin(part * part_vectors + lane),
          end(min(p.vectors, (part + 1) * part_vectors)),
          past_end((part + 1) * part_vectors),
          pair(blockIdx.x * (WARPS >> p.split_bits) + group) {
        open();
    }

    __device__ int num_pairs() const { return GATED ? p.outputs : (p.outputs + 1) / 2; }
    __device__ int stride() const { return gridDim.x * (WARPS >> p.split_bits); }
    __device__ bool has_second() const { return GATED || 2 * pair + 1 < p.outputs; }
    __device__ const uint4* second_row() const { return row + (GATED ? 1ll * p.outputs * p.vectors : p.vectors); }

    __device__ void open() {
        vector = begin;
        row = p.weight + static_cast<long long>(GATED ? pair : 2 * pair) * p.vectors;
    }

    __device__ void load(uint4 (&into)[2]) {
        const bool is_there = pair < num_pairs() && vector < end;
        into[0] = into[1] = make_uint4(0, 0, 0, 0);
        if (is_there) into[0] = streamed(row + vector);
        if (is_there && has_second()) into[1] = streamed(second_row() + vector);
        vector += 32;
        if (vector >= past_end) {
            pair += stride();
            open();
        }
    }
};

// x, normalized if there is a norm, as [ROWS, padded] vectors in shared memory; rows and columns that are not
// there are 0.
template <int ROWS>
__device__ void read_x(const Product& p, uint4* x, int padded) {
    __shared__ float squares[ROWS][WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float square[ROWS] = {};
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        const uint4* from = reinterpret_cast<const uint4*>(p.x + static_cast<long long>(row) * p.x_stride);
        for (int at = threadIdx.x; at < padded; at += blockDim.x) {
            const bool is_there = row < p.rows && at < p.vectors;
            const uint4 value = is_there ? written(from + at) : make_uint4(0, 0, 0, 0);
            x[row * padded + at] = value;
            square[row] += square_of(value.x) + square_of(value.y) + square_of(value.z) + square_of(value.w);
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
                const uint4 value = x[row * padded + at], weight = __ldg(norm + at);
                const auto normalized = [scale](unsigned numbers, unsigned weights) {
                    return pair_of(rounded(first_of(numbers) * scale) * first_of(weights),
                                   rounded(second_of(numbers) * scale) * second_of(weights));
                };
                x[row * padded + at] = make_uint4(normalized(value.x, weight.x), normalized(value.y, weight.y),
                                                  normalized(value.z, weight.z), normalized(value.w, weight.w));
            }
        }
    }
    __syncthreads();
}

template <int ROWS>
__device__ void multiply(float (&sums)[2][ROWS], const uint4 (&weights)[2], const uint4* x, int padded) {
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        const uint4 numbers = x[row * padded];
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

__device__ void store(const Product& p, int row, int output, float y) {
    const long long at = static_cast<long long>(row) * p.outputs + output;
    if (p.residual != nullptr) y = rounded(y) + written(p.residual + at);
    p.out[at] = narrow(y);
}

// What stands behind the product, for one row of a pair.
template <bool GATED>
__device__ void finish(const Product& p, int row, int pair, float first, float second) {
    if (GATED) {
        if (p.bias != nullptr) {
            first += widen(p.bias[pair]);
            second += widen(p.bias[p.outputs + pair]);
        }
        const float gate = rounded(first);
        store(p, row, pair, gate / (1.0f + expf(-gate)) * rounded(second));
        return;
    }
    const int output = 2 * pair;
    store(p, row, output, p.bias == nullptr ? first : first + widen(p.bias[output]));
    if (output + 1 < p.outputs) {
        store(p, row, output + 1, p.bias == nullptr ? second : second + widen(p.bias[output + 1]));
    }
}

template <int ROWS, bool GATED>
__device__ void few_rows(const Product& p) {
    uint4* x = dynamic_shared_memory();
    __shared__ float parts[2][WARPS][2 * ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int splits = 1 << p.split_bits, group = warp >> p.split_bits, part = warp & (splits - 1);
    const int steps = (p.vectors + 32 * splits - 1) >> (5 + p.split_bits);

    let_the_next_begin();
    Stream<GATED> stream(p, lane, group, part, 32 * steps);
    int pair = stream.pair;
    if (p.prefetched && lane == 0 && pair < stream.num_pairs() && stream.begin < stream.end) {
        prefetch(stream.row + stream.begin, stream.end - stream.begin);
        if (stream.has_second()) {
            prefetch(stream.second_row() + stream.begin, stream.end - stream.begin);
        }
    }
    constexpr int RING = ROWS < 4 ? 4 : 3;  // as many as 64 registers a thread hold without spilling
    uint4 ring[RING][2];
#pragma unroll
    for (int at = 0; at < RING; ++at) stream.load(ring[at]);
    wait_for_kernels_before();
    const int padded = 32 * steps << p.split_bits;
    read_x<ROWS>(p, x, padded);

    const uint4* own_x = x + stream.begin;
    float sums[2][ROWS] = {};
    int step = 0, parity = 0;
    while (pair < stream.num_pairs()) {
#pragma unroll
        for (int at = 0; at < RING; ++at) {
            multiply<ROWS>(sums, ring[at], own_x + 32 * step, padded);
            stream.load(ring[at]);
            if (++step < steps) continue;
#pragma unroll
            for (int row = 0; row < ROWS; ++row) {
                const float first = sum_of_warp(sums[0][row]), second = sum_of_warp(sums[1][row]);
                if (lane == row) {
                    parts[parity][warp][2 * row] = first;
                    parts[parity][warp][2 * row + 1] = second;
                }
                sums[0][row] = sums[1][row] = 0.0f;
            }
            wait_for_warps(group + 1, splits);
            if (part == 0 && lane < p.rows && pair < stream.num_pairs()) {
                float first = 0.0f, second = 0.0f;
#pragma unroll 1
                for (int of = warp; of < warp + splits; ++of) {
                    first += parts[parity][of][2 * lane];
                    second += parts[parity][of][2 * lane + 1];
                }
                finish<GATED>(p, lane, pair, first, second);
            }
            parity ^= 1;
            pair += stream.stride();
            step = 0;
        }
    }
}

}  // namespace

#define KERNEL(ROWS, GATED)                                                                     \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 2) few_rows_##ROWS##_##GATED(      \
        const uint4* weight, const Number* x, const Number* bias, const Number* norm,           \
        const Number* residual, Number* out, float eps, int rows, int outputs, int vectors,     \
        int x_stride, int split_bits, int prefetched) {                                             \
        few_rows<ROWS, GATED>({weight, x, bias, norm, residual, out, eps, rows, outputs, vectors, \
                               x_stride, split_bits, prefetched});                                  \
    }

KERNEL(1, 0)
KERNEL(1, 1)
KERNEL(2, 0)
KERNEL(2, 1)
KERNEL(4, 0)
KERNEL(4, 1)
