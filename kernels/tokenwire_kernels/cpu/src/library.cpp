// The exported functions: which instruction set runs is decided here, once for each context.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <mutex>

#include "table.h"

using tokenwire::Pool;
using tokenwire::Table;

#ifndef TW_HAS_AVX2
#define TW_HAS_AVX2 0
#endif
#ifndef TW_HAS_AVX512
#define TW_HAS_AVX512 0
#endif
#ifndef TW_HAS_AVX512_VNNI
#define TW_HAS_AVX512_VNNI 0
#endif
#ifndef TW_HAS_AVX512_BF16
#define TW_HAS_AVX512_BF16 0
#endif
#ifndef TW_HAS_AMX
#define TW_HAS_AMX 0
#endif

namespace {

#if TW_HAS_AVX2
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif
#if TW_HAS_AVX512
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif
#if TW_HAS_AVX512_VNNI
bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif
#if TW_HAS_AVX512_BF16
bool has_avx512_bf16() { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif

#if TW_HAS_AMX
// The registers are large, so Linux wants to be asked for them, once for all threads of a process.
bool may_use_tiles() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
    static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return allowed;
}

bool has_amx() {
    unsigned eax, ebx, ecx, edx;
    constexpr unsigned kNeeded = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
    return has_avx512_bf16() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kNeeded) == kNeeded &&
           may_use_tiles();
}
#endif

struct InstructionSet {
    const char *name;
    bool (*is_there)();
    const Table *(*table)();
};

// Weakest first. `portable` is plain C++ for whatever the compiler's baseline is.
const InstructionSet kInstructionSets[] = {
    {"portable", [] { return true; }, tokenwire::portable_table},
#if TW_HAS_AVX2
    {"avx2", has_avx2, tokenwire::avx2_table},
#endif
#if TW_HAS_AVX512
    {"avx512", has_avx512, tokenwire::avx512_table},
#endif
#if TW_HAS_AVX512_VNNI
    {"avx512_vnni", has_avx512_vnni, tokenwire::avx512_vnni_table},
#endif
#if TW_HAS_AVX512_BF16
    {"avx512_bf16", has_avx512_bf16, tokenwire::avx512_bf16_table},
#endif
#if TW_HAS_AMX
    {"amx", has_amx, tokenwire::amx_table},
#endif
};

constexpr int32_t kCount = sizeof kInstructionSets / sizeof kInstructionSets[0];

}  // namespace

struct tw_context {
    Pool pool;
    const Table &table;

    tw_context(int32_t num_threads, const int32_t *cpus, const Table &chosen)
        : pool(num_threads, cpus), table(chosen) {}
};

namespace {

// One caller at a time: the pool has one run, and its shared memory one owner.
class Turn {
  public:
    explicit Turn(tw_context *context) : pool_(context->pool) { pool_.lock(); }
    ~Turn() { pool_.unlock(); }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

  private:
    Pool &pool_;
};

}  // namespace

const char *tw_sources(void) { return TW_SOURCES; }

const char *tw_instruction_set(int32_t index) {
    return index >= 0 && index < kCount ? kInstructionSets[index].name : nullptr;
}

int32_t tw_runs(int32_t index) { return index >= 0 && index < kCount && kInstructionSets[index].is_there() ? 1 : 0; }

tw_context *tw_open(int32_t instruction_set, int32_t num_threads, const int32_t *cpus) {
    if (!tw_runs(instruction_set) || num_threads < 1) return nullptr;
    return new tw_context(num_threads, cpus, *kInstructionSets[instruction_set].table());
}

void tw_close(tw_context *context) { delete context; }

#ifdef __SANITIZE_ADDRESS__

// Where the sanitizer watches.
void *tw_allocate(int64_t num_bytes) { return std::calloc(1, static_cast<size_t>(num_bytes)); }

void tw_free(void *memory, int64_t) { std::free(memory); }

#else

void *tw_allocate(int64_t num_bytes) {
    // A large page lies where its size says; what is mapped around such a place is given back.
    constexpr size_t kLargePage = size_t{2} << 20;
    const size_t size = static_cast<size_t>(num_bytes);
    void *mapped = mmap(nullptr, size + kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    const size_t begin = reinterpret_cast<size_t>(mapped), end = begin + size + kLargePage;
    const size_t aligned = (begin + kLargePage - 1) / kLargePage * kLargePage, page = 4096;
    const size_t used = aligned + (size + page - 1) / page * page;
    if (aligned > begin) munmap(mapped, aligned - begin);
    if (end > used) munmap(reinterpret_cast<void *>(used), end - used);
#ifdef MADV_HUGEPAGE
    madvise(reinterpret_cast<void *>(aligned), size, MADV_HUGEPAGE);
#endif
    return reinterpret_cast<void *>(aligned);
}

void tw_free(void *memory, int64_t num_bytes) { munmap(memory, static_cast<size_t>(num_bytes)); }

#endif

int64_t tw_panel_bytes(tw_context *context, const tw_matrix *matrix) { return context->table.panel_bytes(matrix); }

int64_t tw_scale_bytes(tw_context *context, const tw_matrix *matrix) { return context->table.scale_bytes(matrix); }

void tw_pack(tw_context *context, const tw_matrix *matrix, int64_t first_row, int64_t num_rows, const void *weights,
             int32_t dtype, int64_t stride) {
    Turn turn(context);
    context->table.pack(context->pool, matrix, first_row, num_rows, weights, dtype, stride, nullptr, nullptr);
}

void tw_pack_codes(tw_context *context, const tw_matrix *matrix, int64_t first_row, int64_t num_rows,
                   const int8_t *codes, const float *scales) {
    Turn turn(context);
    context->table.pack(context->pool, matrix, first_row, num_rows, nullptr, 0, 0, codes, scales);
}

int64_t tw_choose_codes(tw_context *context, const tw_matrix *matrix, tw_compact_panel *panels) {
    Turn turn(context);
    return context->table.choose_codes(context->pool, matrix, panels);
}

void tw_compact(tw_context *context, const tw_matrix *from, const tw_matrix *to) {
    Turn turn(context);
    context->table.compact(context->pool, from, to);
}

void tw_quantize(tw_context *context, const void *weights, int32_t dtype, int64_t stride, int64_t num_rows, int64_t k,
                 int32_t bits, int64_t group, const float *shrinkages, int64_t num_shrinkages, int8_t *codes,
                 float *scales) {
    Turn turn(context);
    context->table.quantize(context->pool, weights, dtype, stride, num_rows, k, bits, group, shrinkages,
                            num_shrinkages, codes, scales);
}

void tw_linear(tw_context *context, const tw_matrix *matrix, const tw_input *input, int64_t num_rows,
               const float *bias, int32_t mode, float *out, int64_t out_stride) {
    Turn turn(context);
    context->table.linear(context->pool, matrix, input, num_rows, bias, mode, out, out_stride);
}

void tw_rms_norm(tw_context *context, const void *x, void *residual, const void *weight, void *out, int64_t outer,
                 int64_t inner, int64_t hidden, int64_t outer_stride, int64_t inner_stride, float eps,
                 int32_t dtype) {
    Turn turn(context);
    context->table.rms_norm(context->pool, x, residual, weight, out, outer, inner, hidden, outer_stride, inner_stride,
                            eps, dtype);
}

void tw_silu_and_mul(tw_context *context, const void *gate_up, void *out, int64_t num_tokens, int64_t intermediate,
                     int64_t stride, int32_t dtype) {
    Turn turn(context);
    context->table.silu_and_mul(context->pool, gate_up, out, num_tokens, intermediate, stride, dtype);
}

void tw_rotary_and_cache(tw_context *context, const tw_rotary *rotary) {
    Turn turn(context);
    context->table.rotary_and_cache(context->pool, rotary);
}

void tw_paged_attention(tw_context *context, const tw_attention *attention) {
    Turn turn(context);
    context->table.paged_attention(context->pool, attention);
}

void tw_greedy(tw_context *context, const void *logits, int32_t dtype, int64_t num_rows, int64_t vocab_size,
               int64_t stride, int64_t *tokens) {
    Turn turn(context);
    context->table.greedy(context->pool, logits, dtype, num_rows, vocab_size, stride, tokens);
}

void tw_apply_bitmask(tw_context *context, void *logits, int32_t dtype, int64_t vocab_size, int64_t stride,
                      const uint32_t *bitmask, int64_t words, const int64_t *rows, int64_t num_masked) {
    Turn turn(context);
    context->table.apply_bitmask(context->pool, logits, dtype, vocab_size, stride, bitmask, words, rows, num_masked);
}

void tw_sample(tw_context *context, const float *logits, const tw_sampling *sampling, int64_t *tokens) {
    Turn turn(context);
    context->table.sample(context->pool, logits, sampling, tokens);
}

int64_t tw_forward(tw_context *context, const tw_model *model, const tw_step *step) {
    for (int64_t token = 0; token < step->views[0].sequences.num_tokens; ++token)
        if (step->token_ids[token] < 0 || step->token_ids[token] >= model->vocab_size) return 1 + token;
    Turn turn(context);
    context->table.forward(context->pool, model, step);
    return 0;
}

int64_t tw_decode(tw_context *context, const tw_model *model, const tw_step *step, const tw_decodes *decodes,
                  int64_t shift) {
    const tw_decodes &rows = *decodes;
    const int64_t num_rows = step->views[0].sequences.num_tokens, block_size = step->shape.block_size;
    for (int64_t row = 0; row < num_rows; ++row) {
        const int64_t position = rows.bases[row] + shift;
        rows.token_ids[row] = rows.latest_tokens[rows.slots[row]];
        rows.positions[row] = position;
        rows.next_positions[row] = position + 1;
        rows.context_lens[row] = static_cast<int32_t>(position + 1);
        for (int64_t group = 0; group < rows.num_groups; ++group) {
            const tw_sequences &sequences = step->views[group].sequences;
            const int64_t block = sequences.block_tables[row * sequences.table_stride + position / block_size];
            rows.cache_slots[group * num_rows + row] = block * block_size + position % block_size;
        }
    }
    const int64_t outside = tw_forward(context, model, step);
    if (outside == 0 && step->tokens != nullptr)
        for (int64_t row = 0; row < num_rows; ++row) rows.latest_tokens[rows.slots[row]] = step->tokens[row];
    return outside;
}

void tw_logits(tw_context *context, const tw_model *model, const float *hidden, int64_t stride, int64_t num_rows,
               float *logits) {
    Turn turn(context);
    context->table.logits(context->pool, model, hidden, stride, num_rows, logits);
}
