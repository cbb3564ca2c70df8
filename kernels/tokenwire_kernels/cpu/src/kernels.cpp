// All kernels for one instruction set: compiled once for each, with TW_LEVEL and TW_TABLE saying which.

#include "table.h"

#include "quantize.h"
#include "sampling.h"

namespace {

int64_t panel_bytes(const tw_matrix *matrix) {
    const Layout layout = layout_of(*matrix);
    return layout.panels * layout.panel_bytes;
}

int64_t scale_bytes(const tw_matrix *matrix) {
    const Layout layout = layout_of(*matrix);
    if (matrix->format == TW_W_COMPACT) return layout.panels * static_cast<int64_t>(sizeof(tw_compact_panel));
    return layout.panels * layout.groups * NR * (matrix->format == TW_W_INT4 ? 2 : 4);
}

void pack(Pool &pool, const tw_matrix *matrix, int64_t first_row, int64_t num_rows, const void *weights, int32_t dtype,
          int64_t stride, const int8_t *codes, const float *scales) {
    const PackArguments arguments{matrix, first_row, num_rows, weights, dtype, stride, codes, scales};
    pool.run(pack_body, &arguments);
}

int64_t choose_codes(Pool &pool, const tw_matrix *matrix, tw_compact_panel *panels) {
    const CompactArguments arguments{matrix, nullptr, panels};
    pool.run(compact_body, &arguments);
    int64_t patches = 0;
    for (int64_t panel = 0; panel < layout_of(*matrix).panels; ++panel) {
        panels[panel].first_patch = patches;
        patches += panels[panel].num_patches;
    }
    return patches;
}

void compact(Pool &pool, const tw_matrix *from, const tw_matrix *to) {
    const CompactArguments arguments{from, to, static_cast<tw_compact_panel *>(to->scales)};
    pool.run(compact_body, &arguments);
}

void quantize(Pool &pool, const void *weights, int32_t dtype, int64_t stride, int64_t num_rows, int64_t k,
              int32_t bits, int64_t group, const float *shrinkages, int64_t num_shrinkages, int8_t *codes,
              float *scales) {
    const QuantizeArguments arguments{weights, dtype, stride, num_rows, k, bits, group, shrinkages, num_shrinkages,
                                      codes, scales};
    pool.run(quantize_body, &arguments);
}

void linear(Pool &pool, const tw_matrix *matrix, const tw_input *input, int64_t num_rows, const float *bias,
            int32_t mode, float *out, int64_t out_stride) {
    const LinearArguments arguments{matrix, *input, num_rows, bias, mode, out, out_stride};
    pool.reserve(kSharedActivations, static_cast<size_t>(linear_bytes(*matrix, num_rows)));
    pool.run(linear_body, &arguments);
}

void rms_norm(Pool &pool, const void *x, void *residual, const void *weight, void *out, int64_t outer, int64_t inner,
              int64_t hidden, int64_t outer_stride, int64_t inner_stride, float eps, int32_t dtype) {
    const NormArguments arguments{x, residual, weight, out, outer, inner, hidden, outer_stride, inner_stride, eps,
                                  dtype};
    pool.run(norm_body, &arguments);
}

void silu_and_mul(Pool &pool, const void *gate_up, void *out, int64_t num_tokens, int64_t intermediate, int64_t stride,
                  int32_t dtype) {
    const SiluArguments arguments{gate_up, out, num_tokens, intermediate, stride, dtype};
    pool.run(silu_body, &arguments);
}

void rotary_and_cache(Pool &pool, const tw_rotary *rotary) { pool.run(rotary_body, rotary); }

// Lists a batch's tasks in shared memory and makes room for its parts.
AttentionPlan plan_attention(Pool &pool, const tw_sequences &sequences, int64_t num_heads,
                             const tw_cache_shape &shape) {
    Worker worker(&pool, 0);
    AttentionPlan plan;
    int64_t rows;
    count_tasks(sequences, num_heads, shape.num_kv_heads, plan.num_tasks, rows);
    const size_t task_bytes = static_cast<size_t>(plan.num_tasks) * sizeof(AttentionTask);
    const size_t counter_bytes = static_cast<size_t>(rows / (num_heads / shape.num_kv_heads)) * sizeof(int32_t);
    pool.reserve(kSharedTasks, task_bytes + counter_bytes);
    pool.reserve(kSharedPartials, static_cast<size_t>(rows * partial_row(shape.head_dim)) * 4);
    AttentionTask *tasks = static_cast<AttentionTask *>(worker.shared(kSharedTasks));
    list_tasks(sequences, num_heads, shape.num_kv_heads, tasks);
    plan.tasks = tasks;
    plan.partials = static_cast<float *>(worker.shared(kSharedPartials));
    plan.finished = reinterpret_cast<int32_t *>(tasks + plan.num_tasks);
    memset(plan.finished, 0, counter_bytes);
    plan.only_decodes = sequences.num_tokens == sequences.num_seqs;
    return plan;
}

void paged_attention(Pool &pool, const tw_attention *attention) {
    const AttentionArguments arguments{
        attention, plan_attention(pool, attention->sequences, attention->num_heads, attention->shape)};
    pool.run(attention_body, &arguments);
}

// One thread reads so many logits in about the time that it takes to wake another one.
constexpr int64_t kFewLogits = 1 << 16;

void run_on_logits(Pool &pool, int64_t count, void (*body)(Worker &, const void *), const void *arguments) {
    if (count <= kFewLogits)
        pool.run_alone(body, arguments);
    else
        pool.run(body, arguments);
}

void greedy(Pool &pool, const void *logits, int32_t dtype, int64_t num_rows, int64_t vocab_size, int64_t stride,
            int64_t *tokens) {
    const GreedyArguments arguments{logits, dtype, num_rows, vocab_size, stride, tokens};
    run_on_logits(pool, num_rows * vocab_size, greedy_body, &arguments);
}

void apply_bitmask(Pool &pool, void *logits, int32_t dtype, int64_t vocab_size, int64_t stride,
                   const uint32_t *bitmask, int64_t words, const int64_t *rows, int64_t num_masked) {
    const BitmaskArguments arguments{logits, dtype, vocab_size, stride, bitmask, words, rows, num_masked};
    run_on_logits(pool, num_masked * vocab_size, bitmask_body, &arguments);
}

void sample(Pool &pool, const float *logits, const tw_sampling *sampling, int64_t *tokens) {
    const SampleArguments arguments{logits, sampling, tokens};
    pool.run(sample_body, &arguments);
}

void forward(Pool &pool, const tw_model *model, const tw_step *step) {
    const int64_t tokens = step->views[0].sequences.num_tokens;
    const int64_t qkv = (model->num_heads + 2 * model->num_kv_heads) * model->head_dim;
    int64_t activations = 0;
    for (int64_t index = 0; index < model->num_layers; ++index) {
        const tw_layer &layer = model->layers[index];
        const tw_matrix *matrices[] = {layer.qkv, layer.o, layer.gate_up, layer.down};
        for (const tw_matrix *matrix : matrices) activations = max_of(activations, linear_bytes(*matrix, tokens));
    }
    if (step->logits != nullptr) activations = max_of(activations, linear_bytes(*model->lm_head, tokens));
    pool.reserve(kSharedActivations, static_cast<size_t>(activations));
    pool.reserve(kSharedQkv, static_cast<size_t>(tokens * qkv) * 4);
    pool.reserve(kSharedAttended, static_cast<size_t>(tokens * model->num_heads * model->head_dim) * 4);
    pool.reserve(kSharedGated, static_cast<size_t>(tokens * model->intermediate_size) * 4);
    const ForwardArguments arguments{
        model, step, plan_attention(pool, step->views[0].sequences, model->num_heads, step->shape)};
    pool.run(forward_body, &arguments);
}

void logits(Pool &pool, const tw_model *model, const float *hidden, int64_t stride, int64_t num_rows, float *out) {
    const tw_input input{hidden, stride, model->final_norm, model->eps};
    linear(pool, model->lm_head, &input, num_rows, nullptr, TW_STORE, out, model->vocab_size);
}

}  // namespace

namespace tokenwire {

const Table *TW_TABLE() {
    static const Table table = {panel_bytes, scale_bytes, pack, choose_codes, compact, quantize, linear, rms_norm,
                                silu_and_mul, rotary_and_cache, paged_attention, greedy, apply_bitmask, sample,
                                forward, logits};
    return &table;
}

}  // namespace tokenwire
