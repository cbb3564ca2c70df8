// The most likely token of each row.

#pragma once

#include "elementwise.h"

namespace {

struct GreedyArguments {
    const void *logits;
    int32_t dtype;
    int64_t num_rows, vocab_size, stride;
    int64_t *tokens;
};

// The first index of the largest value; NaN counts as minus infinity.
template <class T>
TW_INLINE int64_t index_of_largest(const T *row, int64_t count) {
    vf most = splat(-INFINITY);
    int64_t i = 0;
    // The maximum takes its second operand where the first is NaN.
    for (; i + W <= count; i += W) most = vmax(load(row + i), most);
    float largest = largest_of(most);
    for (; i < count; ++i) {
        const float value = to_float(row[i]);
        if (value > largest) largest = value;
    }
    if (largest == -INFINITY) return 0;
    for (i = 0; i < count; ++i)
        if (to_float(row[i]) == largest) return i;
    return 0;
}

// Executed by all threads; ends with a `sync`.
void greedy_phase(Worker &worker, const GreedyArguments &a) {
    for (int64_t begin, end; worker.claim(a.num_rows, begin, end);)
        for (int64_t row = begin; row < end; ++row) {
#define TW_CALL(T) a.tokens[row] = index_of_largest(static_cast<const T *>(a.logits) + row * a.stride, a.vocab_size)
            TW_FOR_DTYPE(a.dtype, TW_CALL)
#undef TW_CALL
        }
    worker.sync();
}

void greedy_body(Worker &worker, const void *argument) {
    greedy_phase(worker, *static_cast<const GreedyArguments *>(argument));
}

}  // namespace
