#include "select.h"

#include <algorithm>
#include <functional>

namespace tokenwire {

void largest_first(float *values, int64_t size, int64_t count, bool is_sorted) {
    if (count < size) std::nth_element(values, values + count - 1, values + size, std::greater<float>());
    if (is_sorted) std::sort(values, values + count, std::greater<float>());
}

}  // namespace tokenwire
