// A vector of floats in whatever width the translation unit is compiled for (TW_LEVEL).
//
// Everything here has internal linkage and nothing comes from the standard library's templates: a function
// that two translation units share would be merged by the linker, and one compiled for AVX-512 could then run
// where there is none.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define TW_PORTABLE 0
#define TW_AVX2 1
#define TW_AVX512 2
#define TW_AVX512_VNNI 3
#define TW_AVX512_BF16 4
#define TW_AMX 5

#if TW_LEVEL >= TW_AVX2
#include <immintrin.h>
#endif

#define TW_INLINE static inline __attribute__((always_inline))
// What would only take registers from its callers.
#define TW_APART static __attribute__((noinline))

namespace {

typedef uint16_t bf16;  // The upper half of a float32.
typedef struct { uint16_t bits; } f16;

TW_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
TW_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
TW_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
TW_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

TW_INLINE float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
TW_INLINE uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

// One element, of any format.
TW_INLINE float to_float(float value) { return value; }
TW_INLINE float to_float(bf16 value) { return float_of_bits(static_cast<uint32_t>(value) << 16); }
TW_INLINE float to_float(f16 value) {
    uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude < 0x400u) return float_of_bits(sign | bits_of_float(static_cast<float>(magnitude) * 0x1p-24f));
    return float_of_bits(sign | ((magnitude << 13) + 0x38000000u));
}
TW_INLINE float to_float(int8_t value) { return static_cast<float>(value); }
TW_INLINE void from_float(float value, float *out) { *out = value; }
// Which lies within -128 and 127, or is no number.
TW_INLINE void from_float(float value, int8_t *out) { *out = static_cast<int8_t>(value == value ? lrintf(value) : 0); }
TW_INLINE void from_float(float value, bf16 *out) {
    uint32_t bits = bits_of_float(value);
    *out = value != value ? static_cast<bf16>(bits >> 16 | 0x40u)
                          : static_cast<bf16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
TW_INLINE void from_float(float value, f16 *out) {
    uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        out->bits = static_cast<uint16_t>(sign | 0x7e00u);
    } else if (magnitude >= 0x477ff000u) {  // Rounds beyond the largest finite number.
        out->bits = static_cast<uint16_t>(sign | 0x7c00u);
    } else if (magnitude < 0x38800000u) {  // Subnormal: let a float addition do the rounding.
        out->bits = static_cast<uint16_t>(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u));
    } else {
        out->bits = static_cast<uint16_t>(
            sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
    }
}

#if TW_LEVEL >= TW_AVX512

constexpr int W = 16;
typedef __m512 vf;

TW_INLINE vf zero() { return _mm512_setzero_ps(); }
TW_INLINE vf splat(float x) { return _mm512_set1_ps(x); }
TW_INLINE vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
TW_INLINE vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
TW_INLINE vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
TW_INLINE vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
TW_INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
TW_INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
TW_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
TW_INLINE vf round_even(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
TW_INLINE vf times_two_to(vf a, vf n) { return _mm512_scalef_ps(a, n); }
TW_INLINE float sum_of(vf a) { return _mm512_reduce_add_ps(a); }
TW_INLINE float largest_of(vf a) { return _mm512_reduce_max_ps(a); }
TW_INLINE vf load(const float *p) { return _mm512_loadu_ps(p); }
TW_INLINE void store(float *p, vf a) { _mm512_storeu_ps(p, a); }
TW_INLINE vf load(const bf16 *p) {
    __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
// Those at even places, and those at odd ones.
TW_INLINE void load_pairs(const bf16 *p, vf &even, vf &odd) {
    const __m512i bits = _mm512_loadu_si512(p);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))));
}
TW_INLINE void store(bf16 *p, vf a) {
    __m512i bits = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi32_epi16(rounded));
}
TW_INLINE vf load(const f16 *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
TW_INLINE void store(f16 *p, vf a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
TW_INLINE vf load(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}
TW_INLINE void store(int8_t *p, vf a) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
// a where a mask's lane of `x <= limit` is set, else b.
TW_INLINE vf where_at_most(vf x, vf limit, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LE_OQ), b, a);
}
// Lane i: the sum of a[i].
TW_INLINE vf sums_of(const vf a[W]) {
    vf pairs[8], fours[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
        pairs[i] = add(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        __m512d left = _mm512_castps_pd(pairs[2 * i]), right = _mm512_castps_pd(pairs[2 * i + 1]);
        fours[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(left, right)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(left, right)));
    }
    vf low = add(_mm512_shuffle_f32x4(fours[0], fours[1], 0x88), _mm512_shuffle_f32x4(fours[0], fours[1], 0xdd));
    vf high = add(_mm512_shuffle_f32x4(fours[2], fours[3], 0x88), _mm512_shuffle_f32x4(fours[2], fours[3], 0xdd));
    return add(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

#elif TW_LEVEL >= TW_AVX2

constexpr int W = 8;
typedef __m256 vf;

TW_INLINE vf zero() { return _mm256_setzero_ps(); }
TW_INLINE vf splat(float x) { return _mm256_set1_ps(x); }
TW_INLINE vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
TW_INLINE vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
TW_INLINE vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
TW_INLINE vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
TW_INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
TW_INLINE vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
TW_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
TW_INLINE vf round_even(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
TW_INLINE vf times_two_to(vf a, vf n) {  // In two steps, since 2 to the n alone may not be a normal number.
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, _mm256_set1_epi32(127)), 23);
    __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), _mm256_set1_epi32(127)), 23);
    return mul(mul(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
TW_INLINE float sum_of(vf a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
TW_INLINE float largest_of(vf a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
TW_INLINE vf load(const float *p) { return _mm256_loadu_ps(p); }
TW_INLINE void store(float *p, vf a) { _mm256_storeu_ps(p, a); }
TW_INLINE vf load(const bf16 *p) {
    __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
TW_INLINE void load_pairs(const bf16 *p, vf &even, vf &odd) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    even = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
    odd = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u))));
}
TW_INLINE void store(bf16 *p, vf a) {
    __m256i bits = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_castsi256_si128(packed));
}
TW_INLINE vf load(const f16 *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
TW_INLINE void store(f16 *p, vf a) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
TW_INLINE vf load(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
}
TW_INLINE void store(int8_t *p, vf a) {
    const __m256i codes = _mm256_cvtps_epi32(a);
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(p), _mm_packs_epi16(halves, halves));
}
TW_INLINE vf where_at_most(vf x, vf limit, vf a, vf b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, limit, _CMP_LE_OQ));
}
TW_INLINE vf sums_of(const vf a[W]) {
    vf pairs[4], fours[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
        pairs[i] = add(_mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]));
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
        __m256d left = _mm256_castps_pd(pairs[2 * i]), right = _mm256_castps_pd(pairs[2 * i + 1]);
        fours[i] = add(_mm256_castpd_ps(_mm256_unpacklo_pd(left, right)),
                       _mm256_castpd_ps(_mm256_unpackhi_pd(left, right)));
    }
    return add(_mm256_permute2f128_ps(fours[0], fours[1], 0x20), _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
}

#else

constexpr int W = 4;
typedef float vf __attribute__((vector_size(16)));

TW_INLINE vf zero() { return vf{0, 0, 0, 0}; }
TW_INLINE vf splat(float x) { return vf{x, x, x, x}; }
TW_INLINE vf add(vf a, vf b) { return a + b; }
TW_INLINE vf sub(vf a, vf b) { return a - b; }
TW_INLINE vf mul(vf a, vf b) { return a * b; }
TW_INLINE vf div(vf a, vf b) { return a / b; }
TW_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
TW_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
TW_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
TW_INLINE vf round_even(vf a) { return vf{rintf(a[0]), rintf(a[1]), rintf(a[2]), rintf(a[3])}; }
TW_INLINE vf times_two_to(vf a, vf n) {
    for (int i = 0; i < W; ++i) a[i] = ldexpf(a[i], static_cast<int>(n[i]));
    return a;
}
TW_INLINE float sum_of(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
TW_INLINE float largest_of(vf a) {
    float first = a[0] > a[1] ? a[0] : a[1], second = a[2] > a[3] ? a[2] : a[3];
    return first > second ? first : second;
}
template <class T>
TW_INLINE vf load(const T *p) { return vf{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}; }
TW_INLINE void load_pairs(const bf16 *p, vf &even, vf &odd) {
    even = vf{to_float(p[0]), to_float(p[2]), to_float(p[4]), to_float(p[6])};
    odd = vf{to_float(p[1]), to_float(p[3]), to_float(p[5]), to_float(p[7])};
}
template <class T>
TW_INLINE void store(T *p, vf a) {
    for (int i = 0; i < W; ++i) from_float(a[i], p + i);
}
TW_INLINE vf where_at_most(vf x, vf limit, vf a, vf b) { return x <= limit ? a : b; }
TW_INLINE vf sums_of(const vf a[W]) { return vf{sum_of(a[0]), sum_of(a[1]), sum_of(a[2]), sum_of(a[3])}; }

#endif

// e to the x within two roundings of float32; 0 below -104, infinity above 89.
TW_INLINE vf exp_of(vf x) {
    x = vmin(vmax(x, splat(-104.0f)), splat(89.0f));
    vf n = round_even(mul(x, splat(1.44269504088896341f)));
    vf r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    vf p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    return times_two_to(add(fma(mul(r, r), p, r), splat(1.0f)), n);
}

// The same within 1e-7 of itself for each unit of x, of an x that is at most 0, as a softmax has it: the error of a
// score as large. Half the work.
TW_INLINE vf weight_of(vf x) {
    x = vmax(mul(x, splat(1.44269504088896341f)), splat(-150.0f));
    const vf n = round_even(x), r = sub(x, n);
    vf p = splat(1.326472731307149e-3f);
    p = fma(p, r, splat(9.671512991189957e-3f));
    p = fma(p, r, splat(5.550733581185341e-2f));
    p = fma(p, r, splat(2.4022242426872253e-1f));
    p = fma(p, r, splat(6.931470036506653e-1f));
    return times_two_to(fma(p, r, splat(1.0f)), n);
}

TW_INLINE vf silu_of(vf x) { return div(x, add(splat(1.0f), exp_of(sub(zero(), x)))); }

TW_INLINE float tanh_of(float x) { return tanhf(x); }

// The first `count` elements at p, others `fill`.
template <class T>
TW_INLINE vf load_some(const T *p, int64_t count, float fill = 0.0f) {
    if (count >= W) return load(p);
    float lanes[W];
    for (int i = 0; i < W; ++i) lanes[i] = i < count ? to_float(p[i]) : fill;
    return load(lanes);
}
template <class T>
TW_INLINE void store_some(T *p, vf a, int64_t count) {
    if (count >= W) {
        store(p, a);
        return;
    }
    float lanes[W];
    store(lanes, a);
    for (int i = 0; i < count; ++i) from_float(lanes[i], p + i);
}

}  // namespace
