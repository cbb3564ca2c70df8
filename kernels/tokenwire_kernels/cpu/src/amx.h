// The CPU's matrix unit (Intel AMX): eight registers of 16 rows of 64 bytes, and products of them.
//
// A product adds to a register of 16 x 16 float32 (or int32) sums that of 16 rows of activations, 64 bytes of each, and
// weights, of which two or four inputs' numbers lie side by side, for 16 outputs. Every row is summed in the same
// order whatever others there are, one row alone included.

#pragma once

#include "simd.h"

namespace {

// Rows that the unit multiplies at once, and the bytes of each, or numbers of bfloat16.
constexpr int64_t kUnitRows = 16;
constexpr int64_t kUnitBytes = 64;
constexpr int64_t kUnitPairs = kUnitBytes / 2;

}  // namespace

#if TW_LEVEL >= TW_AMX

namespace {

// Registers: four of sums, two of rows, two of weights. The instructions name theirs by a literal.
#define TW_SUMS0 0
#define TW_SUMS1 1
#define TW_SUMS2 2
#define TW_SUMS3 3
#define TW_ROWS0 4
#define TW_ROWS1 5
#define TW_WEIGHTS0 6
#define TW_WEIGHTS1 7

// The compiler does not know that the unit reads what was written to memory just before.
TW_INLINE void writes_are_done(const void *to = nullptr) { __asm__ volatile("" : : "r"(to) : "memory"); }

// The unit as a thread has set it up. Set up it costs at every change of threads, so it is given back in the end.
class TileUnit {
  public:
    TileUnit() = default;
    TileUnit(const TileUnit &) = delete;
    TileUnit &operator=(const TileUnit &) = delete;
    ~TileUnit() {
        if (depth_ != 0) _tile_release();
    }

    // For `first` rows in SUMS0, SUMS1 and ROWS0, `second` in SUMS2, SUMS3 and ROWS1, and `depth` bytes of each.
    void configure(int64_t first, int64_t second, int64_t depth = kUnitBytes) {
        if (first == first_ && second == second_ && depth == depth_) return;
        first_ = first;
        second_ = second;
        depth_ = depth;
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } shape;
        const auto set = [&](int place, int64_t rows, int64_t row_bytes) {
            shape.rows[place] = static_cast<uint8_t>(rows);
            shape.row_bytes[place] = static_cast<uint16_t>(rows ? row_bytes : 0);
        };
        set(TW_SUMS0, first, kUnitBytes);
        set(TW_SUMS1, first, kUnitBytes);
        set(TW_SUMS2, second, kUnitBytes);
        set(TW_SUMS3, second, kUnitBytes);
        set(TW_ROWS0, first, depth);
        set(TW_ROWS1, second, depth);
        set(TW_WEIGHTS0, depth / 4, kUnitBytes);
        set(TW_WEIGHTS1, depth / 4, kUnitBytes);
        writes_are_done(&shape);
        _tile_loadconfig(&shape);
    }

  private:
    int64_t first_ = 0, second_ = 0, depth_ = 0;
};

}  // namespace

#else

namespace {

class TileUnit {};

}  // namespace

#endif
