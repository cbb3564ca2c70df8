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

// The first index of the largest value; NaN counts as minus infinity. One pass, which remembers the run of values
// that the largest is in.
template <class T>
TW_INLINE int64_t index_of_largest(const T *row, int64_t count) {
    constexpr int64_t kRun = 8 * W;
    float largest = -INFINITY;
    int64_t place = 0, i = 0;
    for (; i + kRun <= count; i += kRun) {
        vf most = splat(-INFINITY);
        // The maximum takes its second operand where the first is NaN.
        TW_UNROLL for (int64_t j = 0; j < kRun; j += W) most = vmax(load(row + i + j), most);
        const float here = largest_of(most);
        if (here > largest) {
            largest = here;
            place = i;
        }
    }
    for (; i < count; ++i) {
        const float value = to_float(row[i]);
        if (value > largest) {
            largest = value;
            place = i;
        }
    }
    if (largest == -INFINITY) return 0;
    while (to_float(row[place]) != largest) ++place;
    return place;
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
