// Partial orders, from the standard library: compiled once, for every CPU.

#pragma once

#include <cstdint>

namespace tokenwire {

// Moves the `count` largest of the values to the front, in descending order if `is_sorted`.
void largest_first(float *values, int64_t size, int64_t count, bool is_sorted);

}  // namespace tokenwire
