// A float32 as the sum of two bfloat16 numbers, for products that take those.

#pragma once

#include "simd.h"

#if TW_LEVEL >= TW_AVX512_BF16

namespace {

// Of each float this keeps 16 of 24 bits.
TW_INLINE void split(vf whole, bf16 *high, bf16 *low) {
    const __m256i above = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(whole));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(high), above);
    const vf kept = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(above), 16));
    const __m256i below = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sub(whole, kept)));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(low), below);
}
TW_INLINE void split_row(const float *x, int64_t count, bf16 *high, bf16 *low) {
    for (int64_t i = 0; i < count; i += W) split(load(x + i), high + i, low + i);
}

}  // namespace

#endif
