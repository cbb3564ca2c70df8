// Rounding weights to small integers, as `quantization/rounding.py` of the engine defines it.

#pragma once

#include "elementwise.h"

namespace {

struct QuantizeArguments {
    const void *weights;
    int32_t dtype;
    int64_t stride, num_rows, k;
    int32_t bits;
    int64_t group;  // Inputs that share a scale; 0: all.
    const float *shrinkages;
    int64_t num_shrinkages;
    int8_t *codes;  // [num_rows, k]
    float *scales;  // [num_rows, groups]
};

TW_INLINE vf rounded_code(vf x, vf inverse, vf least, vf most) {
    return vmin(vmax(round_even(mul(x, inverse)), least), most);
}

// `count` weights of one group, at `x` in float32.
TW_INLINE float quantize_group(const QuantizeArguments &a, const float *x, int64_t count, int8_t *codes) {
    const float largest_code = static_cast<float>((1 << (a.bits - 1)) - 1);
    const vf least = splat(-largest_code - 1.0f), most = splat(largest_code);
    vf largest = zero();
    for (int64_t i = 0; i < count; i += W) {
        const vf v = load_some(x + i, count - i);
        largest = vmax(largest, vmax(v, sub(zero(), v)));
    }
    const float magnitude = largest_of(largest);
    float best_scale = 0.0f, best_error = INFINITY;
    for (int64_t index = 0; index < a.num_shrinkages; ++index) {
        float scale = magnitude * a.shrinkages[index] / largest_code;
        if (a.bits < 8) {
            f16 narrow;
            from_float(scale, &narrow);
            scale = to_float(narrow);
        }
        if (a.num_shrinkages == 1) {
            best_scale = scale;
            break;
        }
        const vf inverse = splat(scale > 0.0f ? 1.0f / scale : 0.0f), step = splat(scale);
        vf error = zero();
        for (int64_t i = 0; i < count; i += W) {
            const vf v = load_some(x + i, count - i);
            const vf lost = sub(mul(rounded_code(v, inverse, least, most), step), v);
            error = fma(lost, lost, error);
        }
        if (sum_of(error) < best_error) {
            best_error = sum_of(error);
            best_scale = scale;
        }
    }
    const vf inverse = splat(best_scale > 0.0f ? 1.0f / best_scale : 0.0f);
    for (int64_t i = 0; i < count; i += W) {
        float lanes[W];
        store(lanes, rounded_code(load_some(x + i, count - i), inverse, least, most));
        for (int64_t lane = 0; lane < min_of(W, count - i); ++lane) codes[i + lane] = static_cast<int8_t>(lanes[lane]);
    }
    return best_scale;
}

void quantize_body(Worker &worker, const void *argument) {
    const QuantizeArguments &a = *static_cast<const QuantizeArguments *>(argument);
    const int64_t size = a.group ? a.group : a.k, groups = ceil_div(a.k, size);
    for (int64_t begin, end; worker.claim(a.num_rows, begin, end);) {
        float *wide = static_cast<float *>(worker.scratch(kScratchRow, static_cast<size_t>(a.k) * 4));
        for (int64_t row = begin; row < end; ++row) {
#define TW_CALL(T) widen_row(static_cast<const T *>(a.weights) + row * a.stride, a.k, wide)
            TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
            for (int64_t group = 0; group < groups; ++group)
                a.scales[row * groups + group] = quantize_group(a, wide + group * size,
                                                                min_of(size, a.k - group * size),
                                                                a.codes + row * a.k + group * size);
        }
    }
    worker.sync();
}

}  // namespace
