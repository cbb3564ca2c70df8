// From logits to tokens, a row at a time, as `reference/sampling.py` defines it: filters are thresholds, and the
// tokens that they keep race. Nothing sorts the vocabulary: a threshold is found by looking at the few largest
// logits, and at more only where those do not suffice.

#pragma once

#include "decoder.h"
#include "select.h"

namespace {

struct BitmaskArguments {
    void *logits;
    int32_t dtype;
    int64_t vocab_size, stride;
    const uint32_t *bitmask;
    int64_t words;
    const int64_t *rows;
    int64_t num_masked;
};

template <class T>
TW_INLINE void mask_row(T *row, const uint32_t *bits, int64_t count) {
    T nothing;
    from_float(-INFINITY, &nothing);
    for (int64_t word = 0; word < ceil_div(count, 32); ++word) {
        T *logits = row + word * 32;
        const int64_t size = min_of(32, count - word * 32);
        // A loop of constant length, without branches, becomes a few vector instructions.
        if (size == 32)
            for (int64_t i = 0; i < 32; ++i) logits[i] = bits[word] >> i & 1u ? logits[i] : nothing;
        else
            for (int64_t i = 0; i < size; ++i) logits[i] = bits[word] >> i & 1u ? logits[i] : nothing;
    }
}

void bitmask_body(Worker &worker, const void *argument) {
    const BitmaskArguments &a = *static_cast<const BitmaskArguments *>(argument);
    for (int64_t begin, end; worker.claim(a.num_masked, begin, end);)
        for (int64_t i = begin; i < end; ++i) {
#define TW_CALL(T) mask_row(static_cast<T *>(a.logits) + a.rows[i] * a.stride, a.bitmask + i * a.words, a.vocab_size)
            TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
        }
    worker.sync();
}

struct SampleArguments {
    const float *logits;
    const tw_sampling *sampling;
    int64_t *tokens;
};

// The least scaled logit that the filters keep.
TW_INLINE float threshold_of(const float *scaled, const float *weights, float *copy, int64_t count, int32_t top_k,
                             float top_p, float min_p) {
    float threshold = logf(min_p);
    if (top_k <= 0 && top_p >= 1.0f) return threshold;
    const int64_t kept = top_k > 0 ? min_of(top_k, count) : count;
    memcpy(copy, scaled, static_cast<size_t>(count) * 4);
    float kth = -INFINITY;
    if (top_k > 0 && kept < count) {
        tokenwire::largest_first(copy, count, kept, false);
        kth = copy[kept - 1];
    }
    if (kth > threshold) threshold = kth;
    if (top_p >= 1.0f) return threshold;
    double mass = 0.0;
    for (int64_t i = 0; i < count; ++i)
        if (scaled[i] >= kth) mass += static_cast<double>(weights[i]);
    mass *= static_cast<double>(top_p);
    for (int64_t head = min_of(256, count);; head = min_of(8 * head, count)) {
        tokenwire::largest_first(copy, count, head, true);
        double sum = 0.0;
        for (int64_t i = 0; i < head && copy[i] >= kth; ++i) {
            sum += static_cast<double>(expf(copy[i]));
            if (sum >= mass || i + 1 == count) return copy[i] > threshold ? copy[i] : threshold;
            if (i + 1 < head && copy[i + 1] < kth) return copy[i] > threshold ? copy[i] : threshold;
        }
        if (head == count) return threshold;
    }
}

// Locally typical sampling (Meister et al., 2023): how far from its expectation a scaled logit may lie, so that what
// is kept is the smallest set of mass `typical_p` whose information content is nearest to the entropy. `expected`
// receives the expectation.
TW_INLINE float typical_distance(const float *scaled, const float *weights, float *copy, int64_t count, float typical_p,
                                 float &expected) {
    double total = 0.0, sum = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        if (weights[i] <= 0.0f) continue;
        total += static_cast<double>(weights[i]);
        sum += static_cast<double>(weights[i]) * static_cast<double>(scaled[i]);
    }
    expected = static_cast<float>(sum / total);
    const auto mass_within = [&](float distance) {
        double mass = 0.0;
        for (int64_t i = 0; i < count; ++i)
            if (weights[i] > 0.0f && fabsf(scaled[i] - expected) <= distance) mass += static_cast<double>(weights[i]);
        return mass;
    };
    const double wanted = total * static_cast<double>(typical_p);
    for (int64_t i = 0; i < count; ++i) copy[i] = weights[i] > 0.0f ? -fabsf(scaled[i] - expected) : -INFINITY;
    int64_t head = min_of(256, count);
    tokenwire::largest_first(copy, count, head, true);
    while (head < count && mass_within(-copy[head - 1]) < wanted) {
        head = min_of(8 * head, count);
        tokenwire::largest_first(copy, count, head, true);
    }
    int64_t low = 0, high = head - 1;  // The nearest of them that suffices.
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (mass_within(-copy[middle]) >= wanted) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return -copy[low];
}

// The token with the largest weight / exponential, the lowest of several (`reference/random.py` defines the
// numbers). An exponential -log(1 - u) is at least u, so that few tokens come to the logarithm.
TW_INLINE int64_t race(const float *weights, float *numbers, int64_t count, uint32_t first_key, uint32_t second_key) {
    for (int64_t i = 0; i < count; ++i) {
        uint32_t word = static_cast<uint32_t>(i) * 0x9E3779B9u + first_key;
        word = (word ^ (word >> 16)) * 0x21F0AAADu + second_key;
        word = (word ^ (word >> 15)) * 0x735A2D97u;
        word ^= word >> 15;
        numbers[i] = static_cast<float>(word) * 0x1p-32f + 0x1p-33f;
    }
    float most = -1.0f;
    int64_t winner = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (weights[i] <= 0.0f || weights[i] <= most * numbers[i]) continue;
        const float ratio = weights[i] / -log1pf(-numbers[i]);
        if (ratio > most) {
            most = ratio;
            winner = i;
        }
    }
    return winner;
}

int64_t sample_row(Worker &worker, const SampleArguments &a, int64_t row) {
    const tw_sampling &s = *a.sampling;
    const int64_t count = s.vocab_size;
    const float *logits = a.logits + row * count;
    const int64_t most_likely = index_of_largest(logits, count);
    const float temperature = s.temperatures[row];
    if (temperature == 0.0f) return most_likely;
    constexpr float kMost = 3.40282347e38f;
    float largest = logits[most_likely];
    if (!(largest > -kMost)) largest = -kMost;
    if (largest > kMost) largest = kMost;
    float *scaled = static_cast<float *>(worker.scratch(kScratchActivations, static_cast<size_t>(count) * 12));
    float *weights = scaled + count, *copy = weights + count;
    for (int64_t i = 0; i < count; ++i) {
        float x = logits[i];
        if (!(x >= -kMost)) x = -INFINITY;  // NaN, and minus infinity itself.
        if (x > kMost) x = kMost;
        scaled[i] = (x - largest) / temperature;
    }
    for (int64_t i = 0; i < count; i += W) store_some(weights + i, exp_of(load_some(scaled + i, count - i)), count - i);
    const float threshold = threshold_of(scaled, weights, copy, count, s.top_k[row], s.top_p[row], s.min_p[row]);
    for (int64_t i = 0; i < count; ++i)
        if (scaled[i] < threshold) weights[i] = 0.0f;
    if (s.typical_p != nullptr && s.typical_p[row] < 1.0f) {
        float expected;
        const float distance = typical_distance(scaled, weights, copy, count, s.typical_p[row], expected);
        for (int64_t i = 0; i < count; ++i)
            if (fabsf(scaled[i] - expected) > distance) weights[i] = 0.0f;
    }
    const int64_t *keys = s.keys + 2 * row;
    return race(weights, copy, count, static_cast<uint32_t>(keys[0]), static_cast<uint32_t>(keys[1]));
}

void sample_body(Worker &worker, const void *argument) {
    const SampleArguments &a = *static_cast<const SampleArguments *>(argument);
    for (int64_t begin, end; worker.claim(a.sampling->num_rows, begin, end);)
        for (int64_t row = begin; row < end; ++row) a.tokens[row] = sample_row(worker, a, row);
    worker.sync();
}

}  // namespace
