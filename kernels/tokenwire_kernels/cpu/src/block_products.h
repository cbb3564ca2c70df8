// A panel times a block of rows on the matrix unit, up to 32 of them at a time.
//
// A panel already is what the unit takes for weights: the numbers of two or four inputs lie side by side, of 16 outputs
// and then of 16 more. Activations lie in blocks of 16 rows (see `pack_block_unit`).

#pragma once

#include "amx.h"
#include "compact.h"
#include "microkernels.h"
#include "tiles.h"

#if TW_LEVEL >= TW_AMX

namespace {

// Bytes of a panel from one pair or quad of inputs to the next, and of as many pairs as the unit takes.
constexpr int64_t kPanelStride = NR * 4;
constexpr int64_t kPairStep = kUnitRows * kPanelStride;
// Inputs that are multiplied at a time where there are several blocks: their weights stay in the first-level cache, by
// which activations pass.
constexpr int64_t kPairInputs = 576;

// Into the second-level cache.
TW_INLINE void fetch_bytes(const uint8_t *at, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(at + byte, 0, 2);
}

// What one or two blocks are multiplied with, and where they lie.
struct BlockProduct {
    const uint8_t *rows0, *rows1;
    int64_t height0, height1;  // Of the second 0: there is none.
    const uint8_t *weights;
    float *results;            // [height0 + height1, NR]
    bool adds;                 // To the results that are there.
};

// results (+)= rows * weights, of bfloat16: `steps` times 32 inputs. Of `ahead` a share is fetched with each step.
TW_APART void multiply_pair_blocks(const BlockProduct &a, int64_t steps, Ahead ahead) {
    constexpr int64_t kStride = NR * 4;
    float *second = a.results + a.height0 * NR;
    const uint8_t *rows0 = a.rows0, *rows1 = a.rows1, *weights = a.weights;
    writes_are_done();
    if (a.adds) {
        _tile_stream_loadd(TW_SUMS0, a.results, kStride);
        _tile_stream_loadd(TW_SUMS1, a.results + W, kStride);
    } else {
        _tile_zero(TW_SUMS0);
        _tile_zero(TW_SUMS1);
    }
    if (a.height1 == 0) {
        for (int64_t step = 0; step < steps; ++step, rows0 += a.height0 * kUnitBytes, weights += kPairStep) {
            fetch_bytes(ahead.at, ahead.step);
            ahead.at += ahead.step;
            _tile_loadd(TW_WEIGHTS0, weights, kPanelStride);
            _tile_loadd(TW_WEIGHTS1, weights + 64, kPanelStride);
            _tile_stream_loadd(TW_ROWS0, rows0, kUnitBytes);
            _tile_dpbf16ps(TW_SUMS0, TW_ROWS0, TW_WEIGHTS0);
            _tile_dpbf16ps(TW_SUMS1, TW_ROWS0, TW_WEIGHTS1);
        }
    } else {
        if (a.adds) {
            _tile_stream_loadd(TW_SUMS2, second, kStride);
            _tile_stream_loadd(TW_SUMS3, second + W, kStride);
        } else {
            _tile_zero(TW_SUMS2);
            _tile_zero(TW_SUMS3);
        }
        for (int64_t step = 0; step < steps; ++step, weights += kPairStep) {
            fetch_bytes(ahead.at, ahead.step);
            ahead.at += ahead.step;
            _tile_loadd(TW_WEIGHTS0, weights, kPanelStride);
            _tile_stream_loadd(TW_ROWS0, rows0, kUnitBytes);
            _tile_dpbf16ps(TW_SUMS0, TW_ROWS0, TW_WEIGHTS0);
            _tile_loadd(TW_WEIGHTS1, weights + 64, kPanelStride);
            _tile_dpbf16ps(TW_SUMS1, TW_ROWS0, TW_WEIGHTS1);
            _tile_stream_loadd(TW_ROWS1, rows1, kUnitBytes);
            _tile_dpbf16ps(TW_SUMS2, TW_ROWS1, TW_WEIGHTS0);
            _tile_dpbf16ps(TW_SUMS3, TW_ROWS1, TW_WEIGHTS1);
            rows0 += a.height0 * kUnitBytes;
            rows1 += a.height1 * kUnitBytes;
        }
        _tile_stored(TW_SUMS2, second, kStride);
        _tile_stored(TW_SUMS3, second + W, kStride);
    }
    _tile_stored(TW_SUMS0, a.results, kStride);
    _tile_stored(TW_SUMS1, a.results + W, kStride);
    writes_are_done();
}

// Codes of 4 bits as bytes: `inputs` of a panel.
TW_INLINE void widen_fours(const uint8_t *codes, int64_t inputs, uint8_t *out) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t i = 0; i < inputs; i += 8, codes += kPanelStride, out += 2 * kPanelStride) {
        fetch_lines(codes + kBytesAhead);
        for (int64_t half = 0; half < kPanelStride; half += 64) {
            const __m512i both = _mm512_loadu_si512(codes + half);
            _mm512_storeu_si512(out + half, _mm512_and_si512(both, low));
            _mm512_storeu_si512(out + kPanelStride + half, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
        }
    }
}

// Groups of inputs that are summed before their sums are scaled: those stay in the first-level cache.
constexpr int64_t kGroupsTogether = 8;

// Some groups of a block of codes; at most `kGroupsTogether`.
struct CodeGroups {
    int64_t count, step, depth;
    const float *row_scales;     // [count, height]
    const int32_t *row_offsets;  // [count, height]
    const float *scales;         // [count, NR], or null: one scale, applied later.
};

// results += scaled sums, group after group.
template <bool kIsScaled>
TW_INLINE void add_groups(const CodeGroups &a, int64_t height, const int32_t *sums, float *results) {
    for (int64_t row = 0; row < height; ++row, sums += NR, results += NR) {
        vf out0 = load(results), out1 = load(results + W);
        for (int64_t group = 0; group < a.count; ++group) {
            const int32_t *own = sums + group * kBlockRows * NR;
            const vf scale = splat(a.row_scales[group * height + row]);
            const __m512i offset = _mm512_set1_epi32(a.row_offsets[group * height + row]);
            const vf sum0 = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(own), offset));
            const vf sum1 = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(own + W), offset));
            out0 = fma(sum0, kIsScaled ? mul(scale, load(a.scales + group * NR)) : scale, out0);
            out1 = fma(sum1, kIsScaled ? mul(scale, load(a.scales + group * NR + W)) : scale, out1);
        }
        store(results, out0);
        store(results + W, out1);
    }
}

// results += rows * weights of a block, of bytes: signed ones of rows, unsigned ones of weights.
TW_APART void multiply_code_block(const BlockProduct &a, const CodeGroups &groups, Ahead ahead) {
    alignas(64) int32_t sums[kGroupsTogether][kBlockRows * NR];
    constexpr int64_t kStride = NR * 4;
    const int64_t step_bytes = groups.depth / 4 * kPanelStride, row_bytes = a.height0 * groups.depth;
    const uint8_t *rows = a.rows0, *weights = a.weights;
    writes_are_done();
    int64_t group = 0;
    // Two pairs of registers take turns.
#define TW_SUM_GROUP(SUMS0, SUMS1)                                                                           \
    _tile_zero(SUMS0);                                                                                       \
    _tile_zero(SUMS1);                                                                                       \
    for (int64_t i = 0; i < groups.step; i += groups.depth, rows += row_bytes, weights += step_bytes) {      \
        fetch_bytes(ahead.at, ahead.step);                                                                   \
        ahead.at += ahead.step;                                                                              \
        _tile_stream_loadd(TW_ROWS0, rows, groups.depth);                                                    \
        _tile_loadd(TW_WEIGHTS0, weights, kPanelStride);                                                     \
        _tile_loadd(TW_WEIGHTS1, weights + 64, kPanelStride);                                                \
        _tile_dpbsud(SUMS0, TW_ROWS0, TW_WEIGHTS0);                                                          \
        _tile_dpbsud(SUMS1, TW_ROWS0, TW_WEIGHTS1);                                                          \
    }                                                                                                        \
    _tile_stored(SUMS0, sums[group], kStride);                                                               \
    _tile_stored(SUMS1, sums[group] + W, kStride);                                                           \
    ++group;
    while (group < groups.count) {
        TW_SUM_GROUP(TW_SUMS0, TW_SUMS1)
        if (group == groups.count) break;
        TW_SUM_GROUP(TW_SUMS2, TW_SUMS3)
    }
#undef TW_SUM_GROUP
    if (groups.scales != nullptr) {
        add_groups<true>(groups, a.height0, sums[0], a.results);
    } else {
        add_groups<false>(groups, a.height0, sums[0], a.results);
    }
}

// The same of a panel, in pieces whose weights stay in the first-level cache while all rows are multiplied with them.
// `done(row, count)`: the results of so many rows are whole.
template <class Done>
TW_INLINE void multiply_pairs_in_blocks(Worker &worker, TileUnit &unit, const tw_matrix &matrix, const Layout &layout,
                                        const uint8_t *activations, int64_t panel, int64_t rows, float *results,
                                        Done done) {
    const bool is_compact = matrix.format == TW_W_COMPACT;
    const int64_t block_bytes = activation_bytes(layout, kBlockRows), blocks = ceil_div(rows, kBlockRows);
    const int64_t all = layout.inputs / kUnitPairs;
    const int64_t pieces = blocks <= 2 && !is_compact ? 1 : ceil_div(layout.inputs, kPairInputs);
    const int64_t steps = ceil_div(all, pieces), step_bytes = layout.panel_bytes / all;
    const uint8_t *numbers = matrix.panels + panel * layout.panel_bytes;
    bf16 *expanded = static_cast<bf16 *>(worker.scratch(kScratchWeights, static_cast<size_t>(steps * kPairStep)));
    Patches patches = is_compact ? Patches(matrix, layout, panel) : Patches();
    for (int64_t from = 0; from < all; from += steps) {
        const int64_t count = min_of(steps, all - from);
        const uint8_t *weights = numbers + from * step_bytes;
        Ahead ahead{weights + layout.panel_bytes, round_up(step_bytes / ceil_div(blocks, 2), 64)};
        if (is_compact) {
            expand_inputs(Expander(compact_panel(matrix, panel)), patches, numbers, from * kUnitPairs,
                          (from + count) * kUnitPairs, expanded);
            weights = reinterpret_cast<const uint8_t *>(expanded);
        }
        for (int64_t row = 0; row < rows; row += 2 * kBlockRows, ahead.at += count * ahead.step) {
            BlockProduct product;
            product.height0 = min_of(kBlockRows, rows - row);
            product.height1 = min_of(kBlockRows, rows - row - product.height0);
            product.rows0 = activations + row / kBlockRows * block_bytes + from * kUnitBytes * product.height0;
            product.rows1 = activations + (row / kBlockRows + 1) * block_bytes + from * kUnitBytes * product.height1;
            product.weights = weights;
            product.results = results + row * NR;
            product.adds = from > 0;
            unit.configure(product.height0, product.height1);
            multiply_pair_blocks(product, count, ahead);
            if (from + count == all) done(row, product.height0 + product.height1);
        }
    }
}

// The same of a panel of codes, some groups at a time. Those of 4 bits are widened once for all rows.
void multiply_codes_in_blocks(Worker &worker, TileUnit &unit, const tw_matrix &matrix, const Layout &layout,
                              const uint8_t *activations, int64_t panel, int64_t rows, float *results) {
    const bool has_fours = matrix.format == TW_W_INT4;
    const int64_t block_bytes = activation_bytes(layout, kBlockRows), blocks = ceil_div(rows, kBlockRows);
    const int64_t num_groups = layout.inputs / layout.step, group_bytes = layout.step * NR;
    const uint8_t *codes = matrix.panels + panel * layout.panel_bytes;
    uint8_t *wide =
        static_cast<uint8_t *>(worker.scratch(kScratchWeights, static_cast<size_t>(kGroupsTogether * group_bytes)));
    float scales[kGroupsTogether * NR];
    for (int64_t from = 0; from < num_groups; from += kGroupsTogether) {
        CodeGroups groups{};
        groups.count = min_of(kGroupsTogether, num_groups - from);
        groups.step = layout.step;
        groups.depth = layout.depth;
        const int64_t place = (panel * layout.groups + from) * NR;
        const uint8_t *weights = wide;
        Ahead ahead{};
        if (has_fours) {
            widen_fours(codes + from * group_bytes / 2, groups.count * layout.step, wide);
            for (int64_t i = 0; i < groups.count * NR; i += W)
                store(scales + i, load(static_cast<const f16 *>(matrix.scales) + place + i));
            groups.scales = scales;
        } else {
            weights = codes + from * group_bytes;
            if (matrix.group != 0) groups.scales = static_cast<const float *>(matrix.scales) + place;
            ahead = {weights + layout.panel_bytes, round_up(layout.depth * NR / blocks, 64)};
        }
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t height = min_of(kBlockRows, rows - block * kBlockRows);
            const uint8_t *x = activations + block * block_bytes;
            const float *row_scales = reinterpret_cast<const float *>(x + layout.inputs * height);
            groups.row_scales = row_scales + from * height;
            groups.row_offsets = reinterpret_cast<const int32_t *>(row_scales + num_groups * height) + from * height;
            unit.configure(height, height, layout.depth);
            float *out = results + block * kBlockRows * NR;
            const BlockProduct product{x + from * layout.step * height, nullptr, height, 0, weights, out, true};
            multiply_code_block(product, groups, ahead);
            ahead.at += groups.count * layout.step / layout.depth * ahead.step;
        }
    }
}

// results [rows, NR] = activations * panel; `done(row, count)` as soon as so many rows are whole.
template <class Done>
TW_INLINE void multiply_blocks(Worker &worker, TileUnit &unit, const tw_matrix &matrix, const Layout &layout,
                               const uint8_t *activations, int64_t panel, int64_t rows, float *results, Done done) {
    if (layout.path == kPairs) {
        multiply_pairs_in_blocks(worker, unit, matrix, layout, activations, panel, rows, results, done);
    } else {
        memset(results, 0, static_cast<size_t>(rows) * NR * 4);
        multiply_codes_in_blocks(worker, unit, matrix, layout, activations, panel, rows, results);
        done(0, rows);
    }
}

}  // namespace

#endif
