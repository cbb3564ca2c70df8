// What products of a few rows with large matrices have in common: rows in shared memory, normalized; sums of pairs
// of outputs in a warp; and what is done with a sum.
//
// Rounds where the reference rounds; sums are float32, always in the same order. WARPS are those that compute.

#pragma once

#include <device.cuh>

namespace {

constexpr int THREADS = 32 * WARPS;  // that compute
constexpr int VECTOR = 8;            // numbers in 16 bytes
constexpr int LOADS = 8;             // of a row, that a thread has on their way
constexpr int WEIGHTS = 4;           // of a norm, likewise

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

// Rows, which lie `stride` numbers apart, as [ROWS, vectors] in shared memory; those that are not there are 0.
struct Rows {
    const Number* from;
    int count, stride, vectors;
    const Number* norm;  // [features], or null
    float eps;

    // A thread's first weights of the norm, which can be asked for before the rows are there.
    struct Weights {
        uint4 of[WEIGHTS];
    };

    __device__ Weights weights() const {
        Weights weights = {};
        if (norm != nullptr) {
#pragma unroll
            for (int nth = 0; nth < WEIGHTS; ++nth) {
                const int at = threadIdx.x + nth * THREADS;
                if (at < vectors) weights.of[nth] = __ldg(reinterpret_cast<const uint4*>(norm) + at);
            }
        }
        return weights;
    }

    // `squares` [ROWS, WARPS]: shared memory to add up in. All WARPS come, and find the rows there.
    template <int ROWS>
    __device__ void read(uint4* x, float* squares, const Weights& weights) const {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        float square[ROWS] = {};
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const uint4* numbers = reinterpret_cast<const uint4*>(from + static_cast<long long>(row) * stride);
            for (int begin = threadIdx.x; begin < vectors; begin += LOADS * THREADS) {
                uint4 values[LOADS] = {};
#pragma unroll
                for (int nth = 0; nth < LOADS; ++nth) {
                    const int at = begin + nth * THREADS;
                    if (row < count && at < vectors) values[nth] = written(numbers + at);
                }
#pragma unroll
                for (int nth = 0; nth < LOADS; ++nth) {
                    const int at = begin + nth * THREADS;
                    if (at < vectors) x[row * vectors + at] = values[nth];
                    square[row] += square_of(values[nth].x) + square_of(values[nth].y) + square_of(values[nth].z) +
                                   square_of(values[nth].w);
                }
            }
        }
        if (norm != nullptr) {
#pragma unroll
            for (int row = 0; row < ROWS; ++row) {
                const float sum = sum_of_warp(square[row]);
                if (lane == 0) squares[row * WARPS + warp] = sum;
            }
            wait_for_warps(0, WARPS);
#pragma unroll
            for (int row = 0; row < ROWS; ++row) {
                const float sum = sum_of_warp(lane < WARPS ? squares[row * WARPS + lane] : 0.0f);
                normalize(x + row * vectors, 1.0f / sqrtf(sum / (vectors * VECTOR) + eps), weights);
            }
        }
        wait_for_warps(0, WARPS);
    }

   private:
    // A thread normalizes what it has written itself.
    __device__ void normalize(uint4* x, float scale, const Weights& weights) const {
        const auto normalized = [scale](unsigned numbers, unsigned weight) {
            return pair_of(rounded(first_of(numbers) * scale) * first_of(weight),
                           rounded(second_of(numbers) * scale) * second_of(weight));
        };
        const auto normalize_one = [&](uint4& value, const uint4& weight) {
            value = make_uint4(normalized(value.x, weight.x), normalized(value.y, weight.y),
                               normalized(value.z, weight.z), normalized(value.w, weight.w));
        };
#pragma unroll
        for (int nth = 0; nth < WEIGHTS; ++nth) {
            const int at = threadIdx.x + nth * THREADS;
            if (at < vectors) normalize_one(x[at], weights.of[nth]);
        }
        for (int at = threadIdx.x + WEIGHTS * THREADS; at < vectors; at += THREADS) {
            normalize_one(x[at], __ldg(reinterpret_cast<const uint4*>(norm) + at));
        }
    }
};

// Add a lane's part of the products of two rows of a matrix with the rows of x.
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

// What becomes of sums. A pair of them is two outputs beside each other, or, gated, a gate and what it gates, which
// is one output.
template <bool GATED>
struct Outputs {
    const Number* bias;      // [count], gated [2 * count], or null
    const Number* residual;  // [rows, count], or null; may be out
    Number* out;             // [rows, count]
    int count;

    __device__ int place(int row, int pair) const { return row * count + (GATED ? pair : 2 * pair); }

    // Of the residual, what belongs to a pair.
    __device__ float2 before(int row, int pair) const {
        float2 numbers = {};
        if (residual == nullptr) return numbers;
        numbers.x = written(residual + place(row, pair));
        if (!GATED) numbers.y = written(residual + place(row, pair) + 1);
        return numbers;
    }

    __device__ void write(int row, int pair, float first, float second, float2 before) const {
        if (bias != nullptr) {
            first += widen(bias[GATED ? pair : 2 * pair]);
            second += widen(bias[GATED ? count + pair : 2 * pair + 1]);
        }
        Number* to = out + place(row, pair);
        if (GATED) {
            const float gate = rounded(first), y = gate / (1.0f + expf(-gate)) * rounded(second);
            to[0] = narrow(residual == nullptr ? y : before.x + rounded(y));
            return;
        }
        to[0] = narrow(residual == nullptr ? first : before.x + rounded(first));
        to[1] = narrow(residual == nullptr ? second : before.y + rounded(second));
    }
};

}  // namespace
