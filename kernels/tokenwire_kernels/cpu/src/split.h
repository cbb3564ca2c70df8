// A float32 as the sum of two bfloat16 numbers, for products that take those.

#pragma once

#include "simd.h"

#if TW_LEVEL >= TW_AVX512_BF16

namespace {

// `count` floats, of which this keeps 16 of 24 bits: high[], then low[].
TW_INLINE void split_row(const float *x, int64_t count, bf16 *high, bf16 *low) {
    for (int64_t i = 0; i < count; i += W) {
        const vf whole = load(x + i);
        const __m256bh above = _mm512_cvtneps_pbh(whole);
        memcpy(high + i, &above, sizeof above);
        const __m256bh below = _mm512_cvtneps_pbh(sub(whole, load(high + i)));
        memcpy(low + i, &below, sizeof below);
    }
}

}  // namespace

#endif
