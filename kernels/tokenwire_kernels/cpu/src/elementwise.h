// RMSNorm, the gated activation, rotation and the write into the KV cache: a row, or a head, at a time.

#pragma once

#include "linear.h"

namespace {

constexpr int64_t kLargestHead = 1024;

// Calls `call(T)` with the type of a number format.
#define TW_FOR_DTYPE(dtype, call)      \
    switch (dtype) {                   \
        case TW_FLOAT32: call(float); break; \
        case TW_BFLOAT16: call(bf16); break; \
        default: call(f16); break;     \
    }

// The same of a cache's.
#define TW_FOR_CACHE_DTYPE(dtype, call) \
    if ((dtype) == TW_INT8) {           \
        call(int8_t);                   \
    } else {                            \
        TW_FOR_DTYPE(dtype, call)       \
    }

template <class T>
TW_INLINE void widen_row(const T *x, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += W) store_some(out + i, load_some(x + i, count - i), count - i);
}

// To T and back.
template <class T>
TW_INLINE vf rounded(vf x) {
    T narrow[W];
    store(narrow, x);
    return load(narrow);
}

struct NormArguments {
    const void *x;
    void *residual;  // Null: none.
    const void *weight;
    void *out;
    int64_t outer, inner, hidden, outer_stride, inner_stride;
    float eps;
    int32_t dtype;
};

template <class T>
TW_INLINE void norm_row(Worker &worker, const NormArguments &a, int64_t row) {
    const T *x = static_cast<const T *>(a.x) + row / a.inner * a.outer_stride + row % a.inner * a.inner_stride;
    const T *weight = static_cast<const T *>(a.weight);
    T *out = static_cast<T *>(a.out) + row * a.hidden;
    float *wide = static_cast<float *>(worker.scratch(kScratchRow, static_cast<size_t>(a.hidden) * 4));
    if (a.residual == nullptr) {
        widen_row(x, a.hidden, wide);
    } else {
        T *residual = static_cast<T *>(a.residual) + row * a.hidden;
        for (int64_t i = 0; i < a.hidden; i += W) {
            const int64_t left = a.hidden - i;
            const vf sum = rounded<T>(add(load_some(x + i, left), load_some(residual + i, left)));
            store_some(residual + i, sum, left);
            store_some(wide + i, sum, left);
        }
    }
    const vf scale = splat(inverse_rms(wide, a.hidden, a.eps));
    for (int64_t i = 0; i < a.hidden; i += W) {
        const int64_t left = a.hidden - i;
        const vf normalized = rounded<T>(mul(load_some(wide + i, left), scale));
        store_some(out + i, mul(normalized, load_some(weight + i, left)), left);
    }
}

void norm_body(Worker &worker, const void *argument) {
    const NormArguments &a = *static_cast<const NormArguments *>(argument);
    for (int64_t begin, end; worker.claim(a.outer * a.inner, begin, end);)
        for (int64_t row = begin; row < end; ++row) {
#define TW_CALL(T) norm_row<T>(worker, a, row)
            TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
        }
    worker.sync();
}

struct SiluArguments {
    const void *gate_up;
    void *out;
    int64_t num_tokens, intermediate, stride;
    int32_t dtype;
};

template <class T>
TW_INLINE void silu_row(const SiluArguments &a, int64_t row) {
    const T *gate = static_cast<const T *>(a.gate_up) + row * a.stride, *up = gate + a.intermediate;
    T *out = static_cast<T *>(a.out) + row * a.intermediate;
    for (int64_t i = 0; i < a.intermediate; i += W) {
        const int64_t left = a.intermediate - i;
        store_some(out + i, mul(silu_of(load_some(gate + i, left)), load_some(up + i, left)), left);
    }
}

void silu_body(Worker &worker, const void *argument) {
    const SiluArguments &a = *static_cast<const SiluArguments *>(argument);
    for (int64_t begin, end; worker.claim(a.num_tokens, begin, end);)
        for (int64_t row = begin; row < end; ++row) {
#define TW_CALL(T) silu_row<T>(a, row)
            TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
        }
    worker.sync();
}

// head *= norm / rms(head), then the first 2 * half dimensions rotate, in float32.
TW_INLINE void rotate_head(float *head, int64_t head_dim, int64_t half, const float *cos, const float *sin,
                           const float *norm, float eps) {
    if (norm != nullptr) {
        const vf scale = splat(inverse_rms(head, head_dim, eps));
        for (int64_t i = 0; i < head_dim; i += W) {
            const int64_t left = head_dim - i;
            store_some(head + i, mul(mul(load_some(head + i, left), scale), load_some(norm + i, left)), left);
        }
    }
    for (int64_t i = 0; i < half; i += W) {
        const int64_t left = half - i;
        const vf c = load_some(cos + i, left), s = load_some(sin + i, left);
        const vf first = load_some(head + i, left), second = load_some(head + half + i, left);
        store_some(head + i, sub(mul(first, c), mul(second, s)), left);
        store_some(head + half + i, fma(second, c, mul(first, s)), left);
    }
}

template <class T>
TW_INLINE void narrow_row(const float *x, int64_t count, T *out) {
    for (int64_t i = 0; i < count; i += W) store_some(out + i, load_some(x + i, count - i), count - i);
}

// Elements of a head in the cache.
TW_INLINE int64_t cache_row(const tw_cache_shape &shape) { return shape.head_dim + (shape.dtype == TW_INT8 ? 4 : 0); }

// A head in the cache becomes codes with a scale of their own behind them.
TW_INLINE void store_head(const float *x, int64_t head_dim, int8_t *out) {
    vf most = zero();
    for (int64_t i = 0; i < head_dim; i += W) {
        const vf part = load_some(x + i, head_dim - i);
        most = vmax(most, vmax(part, sub(zero(), part)));
    }
    const float scale = largest_of(most) / 127.0f;
    const vf inverse = splat(scale > 1e-36f ? 1.0f / scale : 0.0f);  // Of less there is none that is finite.
    for (int64_t i = 0; i < head_dim; i += W)
        store_some(out + i, mul(load_some(x + i, head_dim - i), inverse), head_dim - i);
    memcpy(out + head_dim, &scale, sizeof scale);
}
template <class T>
TW_INLINE void store_head(const float *x, int64_t head_dim, T *out) {
    narrow_row(x, head_dim, out);
}

TW_INLINE void store_in_cache(const float *x, const tw_cache_shape &shape, void *cache, int64_t slot, int64_t head) {
    const int64_t block = slot / shape.block_size, offset = slot % shape.block_size;
    const int64_t place = ((block * shape.num_kv_heads + head) * shape.block_size + offset) * cache_row(shape);
#define TW_CALL(T) store_head(x, shape.head_dim, static_cast<T *>(cache) + place)
    TW_FOR_CACHE_DTYPE(shape.dtype, TW_CALL)
#undef TW_CALL
}

// A query head of `token`, already in float32.
TW_INLINE void rotate_query(const tw_rotary &a, int64_t token, float *head) {
    const int64_t turns = a.positions[token] * a.half;
    rotate_head(head, a.shape.head_dim, a.half, a.cos + turns, a.sin + turns, a.q_norm, a.eps);
}

// KV head `h` of `token` goes into the cache, unless the token has no place there.
template <class T>
TW_INLINE void rotate_into_cache(const tw_rotary &a, int64_t token, int64_t h) {
    const int64_t head_dim = a.shape.head_dim, slot = a.slots[token], turns = a.positions[token] * a.half;
    if (slot < 0) return;
    float head[kLargestHead];
    widen_row(static_cast<const T *>(a.k) + token * a.k_token_stride + h * a.k_head_stride, head_dim, head);
    rotate_head(head, head_dim, a.half, a.cos + turns, a.sin + turns, a.k_norm, a.eps);
    store_in_cache(head, a.shape, a.cache.keys, slot, h);
    widen_row(static_cast<const T *>(a.v) + token * a.v_token_stride + h * a.v_head_stride, head_dim, head);
    store_in_cache(head, a.shape, a.cache.values, slot, h);
}

template <class T>
TW_INLINE void rotate_token(const tw_rotary &a, int64_t token) {
    const int64_t head_dim = a.shape.head_dim;
    float head[kLargestHead];
    for (int64_t h = 0; h < a.num_heads; ++h) {
        T *q = static_cast<T *>(a.q) + token * a.q_token_stride + h * a.q_head_stride;
        widen_row(q, head_dim, head);
        rotate_query(a, token, head);
        narrow_row(head, head_dim, q);
    }
    for (int64_t h = 0; h < a.shape.num_kv_heads; ++h) rotate_into_cache<T>(a, token, h);
}

void rotary_phase(Worker &worker, const tw_rotary &a) {
    for (int64_t begin, end; worker.claim(a.num_tokens, begin, end);)
        for (int64_t token = begin; token < end; ++token) {
#define TW_CALL(T) rotate_token<T>(a, token)
            TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
        }
    worker.sync();
}

void rotary_body(Worker &worker, const void *argument) {
    rotary_phase(worker, *static_cast<const tw_rotary *>(argument));
}

}  // namespace
