// Numbers of bfloat16 in 12 bits each, without loss.
//
// The upper byte of a bfloat16 is its sign and all of its exponent but the last bit, of which the weights of a panel
// have few values that are frequent: it becomes a code of 4 bits, under which the panel lists it. The lower byte stays
// as it is. The few numbers whose upper byte got no code are listed as patches, and put in their place wherever a
// panel is expanded. Entropy coding of exponents is known from files (ZipNN, https://arxiv.org/abs/2411.05239) and
// from GPUs (DFloat11, https://arxiv.org/abs/2504.11651); codes of one length expand in a few instructions, so that
// one row's product still waits for memory only, and for three quarters of it.
//
// Four inputs of a panel lie together: the lower bytes of the first two, those of the second two, and the codes of
// both, the first in the lower halves. Bytes are in the order in which unpacking them gives what lies in a panel of
// bfloat16.

#pragma once

#include "panels.h"

namespace {

constexpr int kCodes = 16;
// Numbers of two inputs, the unit of a panel of bfloat16, and of the four that are coded together.
constexpr int64_t kPairNumbers = 2 * NR, kFourNumbers = 4 * NR;
constexpr int64_t kCompactBytes = kFourNumbers + kPairNumbers;  // Of four inputs.

TW_INLINE const tw_compact_panel &compact_panel(const tw_matrix &matrix, int64_t panel) {
    return static_cast<const tw_compact_panel *>(matrix.scales)[panel];
}

TW_INLINE const tw_patch *patches_of(const tw_matrix &matrix, const Layout &layout, int64_t panel) {
    const tw_compact_panel *panels = static_cast<const tw_compact_panel *>(matrix.scales);
    return reinterpret_cast<const tw_patch *>(panels + layout.panels) + panels[panel].first_patch;
}

// Where a pair's lower byte and code lie: number 8j + t of its first half at 16j + t, of its second at 16j + 8 + t.
TW_INLINE int64_t byte_of(int64_t number) {
    const int64_t half = number / NR, index = number % NR;
    return index / 8 * 16 + half * 8 + index % 8;
}

#if TW_LEVEL >= TW_AVX512
typedef __m512i Halves;  // NR numbers of 16 bits, as they lie in a panel.

TW_INLINE Halves load_halves(const bf16 *at) { return _mm512_loadu_si512(at); }
TW_INLINE void store_halves(bf16 *out, Halves a) { _mm512_storeu_si512(out, a); }
TW_INLINE void widen_halves(Halves a, vf &even, vf &odd) {
    even = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))));
}

struct Expander {
    __m512i upper;

    explicit Expander(const tw_compact_panel &panel)
        : upper(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(panel.upper)))) {}

    // Four inputs, as two pairs.
    void expand(const uint8_t *at, Halves numbers[2][2]) const {
        const __m512i low0 = _mm512_loadu_si512(at), low1 = _mm512_loadu_si512(at + 64);
        const __m512i codes = _mm512_loadu_si512(at + 128), mask = _mm512_set1_epi8(15);
        const __m512i high0 = _mm512_shuffle_epi8(upper, _mm512_and_si512(codes, mask));
        const __m512i high1 = _mm512_shuffle_epi8(upper, _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask));
        numbers[0][0] = _mm512_unpacklo_epi8(low0, high0);
        numbers[0][1] = _mm512_unpackhi_epi8(low0, high0);
        numbers[1][0] = _mm512_unpacklo_epi8(low1, high1);
        numbers[1][1] = _mm512_unpackhi_epi8(low1, high1);
    }
};
#elif TW_LEVEL >= TW_AVX2
typedef __m256i Halves;

TW_INLINE Halves load_halves(const bf16 *at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at)); }
TW_INLINE void store_halves(bf16 *out, Halves a) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(out), a); }
TW_INLINE void widen_halves(Halves a, vf &even, vf &odd) {
    even = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
    odd = _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u))));
}

struct Expander {
    __m256i upper;

    explicit Expander(const tw_compact_panel &panel)
        : upper(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(panel.upper)))) {}

    void expand(const uint8_t *at, Halves numbers[2][2]) const {
        const __m256i *bytes = reinterpret_cast<const __m256i *>(at);
        const __m256i low0 = _mm256_loadu_si256(bytes), low1 = _mm256_loadu_si256(bytes + 1);
        const __m256i codes = _mm256_loadu_si256(bytes + 2), mask = _mm256_set1_epi8(15);
        const __m256i high0 = _mm256_shuffle_epi8(upper, _mm256_and_si256(codes, mask));
        const __m256i high1 = _mm256_shuffle_epi8(upper, _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask));
        numbers[0][0] = _mm256_unpacklo_epi8(low0, high0);
        numbers[0][1] = _mm256_unpackhi_epi8(low0, high0);
        numbers[1][0] = _mm256_unpacklo_epi8(low1, high1);
        numbers[1][1] = _mm256_unpackhi_epi8(low1, high1);
    }
};
#else
struct Halves {
    bf16 numbers[NR];
};

TW_INLINE Halves load_halves(const bf16 *at) {
    Halves a;
    memcpy(&a, at, sizeof a);
    return a;
}
TW_INLINE void store_halves(bf16 *out, const Halves &a) { memcpy(out, &a, sizeof a); }
TW_INLINE void widen_halves(const Halves &a, vf &even, vf &odd) { load_pairs(a.numbers, even, odd); }

struct Expander {
    const uint8_t *upper;

    explicit Expander(const tw_compact_panel &panel) : upper(panel.upper) {}

    void expand(const uint8_t *at, Halves numbers[2][2]) const {
        for (int pair = 0; pair < 2; ++pair)
            for (int64_t number = 0; number < kPairNumbers; ++number) {
                const int64_t byte = byte_of(number);
                const int code = at[kFourNumbers + byte] >> 4 * pair & 15;
                numbers[pair][number / NR].numbers[number % NR] =
                    static_cast<bf16>(upper[code] << 8 | at[pair * kPairNumbers + byte]);
            }
    }
};
#endif

// The patches of a panel that are yet to come, as one walks along its inputs.
struct Patches {
    const tw_patch *next = nullptr, *end = nullptr;

    Patches() = default;
    Patches(const tw_matrix &matrix, const Layout &layout, int64_t panel)
        : next(patches_of(matrix, layout, panel)), end(next + compact_panel(matrix, panel).num_patches) {}

    // The first of the next four inputs that are to be patched, or `limit`.
    int64_t next_input(int64_t limit) const {
        return next == end ? limit : min_of(limit, next->place / kFourNumbers * 4);
    }
};

// Inputs [from, to) of a panel as they lie in one of bfloat16; both are multiples of 4.
TW_INLINE void expand_inputs(const Expander &expander, Patches &patches, const uint8_t *panel, int64_t from, int64_t to,
                             bf16 *out) {
    const uint8_t *at = panel + from / 4 * kCompactBytes;
    for (int64_t i = from; i < to; i += 4, at += kCompactBytes) {
        Halves numbers[2][2];
        expander.expand(at, numbers);
        for (int64_t half = 0; half < 4; ++half)
            store_halves(out + (i - from) * NR + half * NR, numbers[half / 2][half % 2]);
    }
    for (; patches.next != patches.end && patches.next->place < to * NR; ++patches.next)
        out[patches.next->place - from * NR] = patches.next->number;
}

// The most frequent upper bytes of a panel of bfloat16; returns how many numbers have others.
TW_INLINE int64_t choose_codes(const bf16 *numbers, int64_t count, uint8_t upper[kCodes]) {
    int32_t occurrences[2][256] = {};
    for (int64_t i = 0; i < count; i += 2) {  // Of neighbours apart, so that no count waits for the one before.
        ++occurrences[0][numbers[i] >> 8];
        ++occurrences[1][numbers[i + 1] >> 8];
    }
    for (int byte = 0; byte < 256; ++byte) occurrences[0][byte] += occurrences[1][byte];
    int64_t rest = count;
    for (int code = 0; code < kCodes; ++code) {
        int best = 0;
        for (int byte = 1; byte < 256; ++byte)
            if (occurrences[0][byte] > occurrences[0][best]) best = byte;
        upper[code] = static_cast<uint8_t>(best);
        rest -= max_of(occurrences[0][best], 0);
        occurrences[0][best] = -1;
    }
    return rest;
}

// Codes a panel of bfloat16 as `known` says, and lists what has no code.
TW_INLINE void code_panel(const bf16 *numbers, int64_t inputs, const tw_compact_panel &known, uint8_t *out,
                          tw_patch *patches) {
    constexpr uint8_t kNone = 0xff;
    uint8_t codes[256];
    memset(codes, kNone, sizeof codes);
    for (int code = kCodes - 1; code >= 0; --code) codes[known.upper[code]] = static_cast<uint8_t>(code);
    for (int64_t i = 0; i < inputs; i += 4, out += kCompactBytes) {
        memset(out + kFourNumbers, 0, kPairNumbers);
        for (int64_t number = 0; number < kFourNumbers; ++number) {
            const int64_t place = i * NR + number, pair = number / kPairNumbers, byte = byte_of(number % kPairNumbers);
            uint8_t code = codes[numbers[place] >> 8];
            if (code == kNone) {
                *patches++ = {static_cast<int32_t>(place), numbers[place], 0};
                code = 0;
            }
            out[pair * kPairNumbers + byte] = static_cast<uint8_t>(numbers[place]);
            out[kFourNumbers + byte] |= static_cast<uint8_t>(code << 4 * pair);
        }
    }
}

struct CompactArguments {
    const tw_matrix *from;       // Of bfloat16.
    const tw_matrix *to;         // Null: only `panels` are to be filled in, but for where their patches begin.
    tw_compact_panel *panels;
};

void compact_body(Worker &worker, const void *argument) {
    const CompactArguments &a = *static_cast<const CompactArguments *>(argument);
    const Layout layout = layout_of(*a.from);
    for (int64_t begin, end; worker.claim(layout.panels, begin, end);)
        for (int64_t panel = begin; panel < end; ++panel) {
            const bf16 *numbers = reinterpret_cast<const bf16 *>(a.from->panels + panel * layout.panel_bytes);
            tw_compact_panel &known = a.panels[panel];
            if (a.to == nullptr) {
                known.num_patches = choose_codes(numbers, layout.inputs * NR, known.upper);
            } else {
                const Layout compact = layout_of(*a.to);
                code_panel(numbers, layout.inputs, known, a.to->panels + panel * compact.panel_bytes,
                           const_cast<tw_patch *>(patches_of(*a.to, compact, panel)));
            }
        }
    worker.sync();
}

}  // namespace
