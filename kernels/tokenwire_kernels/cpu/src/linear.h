// y = x Wᵀ, with weights in panels and activations in tiles, or in blocks for a CPU's matrix unit.
//
// Every output is accumulated in float32 over its inputs in one fixed order, which depends on neither the
// number of rows nor the threads: a token's result is the same alone and in a batch.
//
// Where the CPU multiplies the weights' format itself (bfloat16 pairs, int8 quads), activations are rounded to
// it: bfloat16, or int8 with one scale for each row and group of inputs. Everywhere else weights are widened
// to float32, a piece of a panel at a time, which stays in the innermost cache.

#pragma once

#include "block_products.h"
#include "tile_products.h"

namespace {

// Rows that a task multiplies with one panel: in tiles, and bytes of those in blocks, which stay in the second-level
// cache.
constexpr int64_t kRowsInTiles = 20 * MR;
constexpr int64_t kBytesInBlocks = 800 << 10;
// Up to so many rows, a tile, every thread prepares the activations for itself: one would do it, and all wait.
constexpr int64_t kRowsForOne = kHasTileUnit ? kBlockRows : MR;

struct LinearArguments {
    const tw_matrix *matrix;
    tw_input input;
    int64_t num_rows;
    const float *bias;
    int32_t mode;
    float *out;
    int64_t out_stride;
};

TW_APART void finish_rows(const LinearArguments &a, const Layout &layout, int64_t panel, int64_t first, int64_t rows,
                           const float *results) {
    const tw_matrix &matrix = *a.matrix;
    vf scale0 = splat(1.0f), scale1 = scale0;
    const bool is_scaled = layout.path == kQuads && matrix.group == 0;
    if (is_scaled) {
        const float *scales = static_cast<const float *>(matrix.scales) + panel * NR;
        scale0 = load(scales);
        scale1 = load(scales + W);
    }
    const int64_t half = matrix.n / 2;
    const int64_t column = panel * (matrix.is_paired ? W : NR);
    const int64_t left = (matrix.is_paired ? half : matrix.n) - column;
    vf bias0 = zero(), bias1 = zero();
    if (a.bias != nullptr) {
        bias0 = load_some(a.bias + column, left);
        bias1 = matrix.is_paired ? load_some(a.bias + half + column, left) : load_some(a.bias + column + W, left - W);
    }
    for (int64_t row = 0; row < rows; ++row, results += NR) {
        vf y0 = load(results), y1 = load(results + W);
        if (is_scaled) {
            y0 = mul(y0, scale0);
            y1 = mul(y1, scale1);
        }
        y0 = add(y0, bias0);
        y1 = add(y1, bias1);
        float *out = a.out + (first + row) * a.out_stride + column;
        if (a.mode == TW_SILU_AND_MUL) {
            store_some(out, mul(silu_of(y0), y1), left);
            continue;
        }
        if (matrix.is_paired) {  // Side by side again.
            store_some(out, y0, left);
            store_some(out + half, y1, left);
            continue;
        }
        if (a.mode == TW_ADD) {
            y0 = add(y0, load_some(out, left));
            if (left > W) y1 = add(y1, load_some(out + W, left - W));
        }
        store_some(out, y0, left);
        if (left > W) store_some(out + W, y1, left - W);
    }
}

// Rows that a task multiplies with one panel, in blocks: fewer where there would be too few tasks for the threads.
TW_INLINE int64_t rows_in_blocks(const Worker &worker, const Layout &layout, int64_t num_rows) {
    constexpr int64_t kPair = 2 * kBlockRows;
    int64_t rows = max_of(kPair, kBytesInBlocks / activation_bytes(layout, kPair) * kPair);
    while (rows > kPair && ceil_div(num_rows, rows) * layout.panels < Worker::kPieces * worker.num_threads())
        rows = round_up(rows / 2, kPair);
    return min_of(rows, round_up(num_rows, kBlockRows));
}

// Executed by one thread: `rows` rows from `first` on, times one panel.
void multiply_panel(Worker &worker, [[maybe_unused]] TileUnit &unit, const LinearArguments &a, const Layout &layout,
                    const uint8_t *activations, int64_t panel, int64_t first, int64_t rows) {
    const bool is_in_blocks = has_blocks(layout, a.num_rows);
    const int64_t height = is_in_blocks ? kBlockRows : MR;
    const size_t bytes = static_cast<size_t>(round_up(rows, height)) * NR * 4;
    float *results = static_cast<float *>(worker.scratch(kScratchResults, bytes));
    activations += first / height * activation_bytes(layout, height);
#if TW_LEVEL >= TW_AMX
    if (is_in_blocks) {
        const auto finish = [&](int64_t row, int64_t count) {
            finish_rows(a, layout, panel, first + row, count, results + row * NR);
        };
        multiply_blocks(worker, unit, *a.matrix, layout, activations, panel, rows, results, finish);
        return;
    }
#endif
    memset(results, 0, bytes);
    multiply_tiles(worker, *a.matrix, layout, activations, panel, rows, results);
    finish_rows(a, layout, panel, first, rows, results);
}

// Bytes of shared memory that a product of so many rows needs.
int64_t linear_bytes(const tw_matrix &matrix, int64_t num_rows) {
    return activation_bytes(layout_of(matrix), round_up(num_rows, max_of(MR, kBlockRows)));
}

// Executed by all threads; ends with a `sync`.
void linear_phase(Worker &worker, const LinearArguments &a) {
    const tw_matrix &matrix = *a.matrix;
    const Layout layout = layout_of(matrix);
    const int64_t units = num_units(layout, a.num_rows);
    uint8_t *activations;
    if (a.num_rows <= kRowsForOne || worker.num_threads() == 1) {
        activations = static_cast<uint8_t *>(worker.scratch(
            kScratchActivations, static_cast<size_t>(linear_bytes(matrix, a.num_rows))));
        for (int64_t unit = 0; unit < units; ++unit)
            pack_unit(worker, matrix, layout, a.input, a.num_rows, unit, activations);
    } else {
        activations = static_cast<uint8_t *>(worker.shared(kSharedActivations));
        for (int64_t begin, end; worker.claim(units, begin, end);)
            for (int64_t unit = begin; unit < end; ++unit)
                pack_unit(worker, matrix, layout, a.input, a.num_rows, unit, activations);
        worker.sync();
    }
    const bool is_in_blocks = has_blocks(layout, a.num_rows);
    const int64_t together = is_in_blocks ? rows_in_blocks(worker, layout, a.num_rows) : kRowsInTiles;
    const int64_t tasks = ceil_div(a.num_rows, together) * layout.panels;
    const int pieces = a.num_rows <= kRowsForOne ? 1 : Worker::kPieces;
    TileUnit unit;
    for (int64_t begin, end; worker.claim(tasks, begin, end, pieces);) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t first = task / layout.panels * together;
            multiply_panel(worker, unit, a, layout, activations, task % layout.panels, first,
                           min_of(together, a.num_rows - first));
        }
    }
    worker.sync();
}

}  // namespace
