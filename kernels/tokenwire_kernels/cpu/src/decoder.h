// A whole forward pass as one run of the pool: every thread walks through all layers, phase by phase.

#pragma once

#include "attention.h"
#include "greedy.h"

namespace {

struct ForwardArguments {
    const tw_model *model;
    const tw_step *step;
    AttentionPlan attention;
};

template <class T>
TW_INLINE void embed_row(const T *table, int64_t hidden, int64_t token_id, float *out) {
    widen_row(table + token_id * hidden, hidden, out);
}

void embed_phase(Worker &worker, const tw_model &model, const tw_step &step) {
    for (int64_t begin, end; worker.claim(step.views[0].sequences.num_tokens, begin, end);)
        for (int64_t token = begin; token < end; ++token) {
            float *out = step.hidden + token * model.hidden_size;
#define TW_CALL(T) embed_row(static_cast<const T *>(model.embedding), model.hidden_size, step.token_ids[token], out)
            TW_FOR_DTYPE(model.embedding_dtype, TW_CALL)
#undef TW_CALL
        }
    worker.sync();
}

void forward_body(Worker &worker, const void *argument) {
    const ForwardArguments &a = *static_cast<const ForwardArguments *>(argument);
    const tw_model &model = *a.model;
    const tw_step &step = *a.step;
    const int64_t tokens = step.views[0].sequences.num_tokens, hidden = model.hidden_size, head_dim = model.head_dim;
    const int64_t q_size = model.num_heads * head_dim, kv_size = model.num_kv_heads * head_dim;
    const int64_t qkv_size = q_size + 2 * kv_size;
    float *qkv = static_cast<float *>(worker.shared(kSharedQkv));
    float *attended = static_cast<float *>(worker.shared(kSharedAttended));
    float *gated = static_cast<float *>(worker.shared(kSharedGated));

    tw_rotary rotary;
    rotary.q = qkv;
    rotary.k = qkv + q_size;
    rotary.v = qkv + q_size + kv_size;
    rotary.q_token_stride = rotary.k_token_stride = rotary.v_token_stride = qkv_size;
    rotary.q_head_stride = rotary.k_head_stride = rotary.v_head_stride = head_dim;
    rotary.num_tokens = tokens;
    rotary.num_heads = model.num_heads;
    rotary.half = head_dim / 2;
    rotary.cos = model.cos;
    rotary.sin = model.sin;
    rotary.positions = step.positions;
    rotary.eps = model.eps;
    rotary.dtype = TW_FLOAT32;
    rotary.shape = step.shape;

    tw_attention attention;
    attention.q = qkv;
    attention.q_token_stride = qkv_size;
    attention.q_head_stride = head_dim;
    attention.out = attended;
    attention.num_heads = model.num_heads;
    attention.dtype = TW_FLOAT32;
    attention.scale = model.attention_scale;
    attention.soft_cap = model.soft_cap;
    attention.shape = step.shape;

    embed_phase(worker, model, step);
    for (int64_t index = 0; index < model.num_layers; ++index) {
        const tw_layer &layer = model.layers[index];
        const tw_view &view = step.views[layer.group];
        linear_phase(worker, {layer.qkv, {step.hidden, hidden, layer.attention_norm, model.eps}, tokens,
                              layer.qkv_bias, TW_STORE, qkv, qkv_size});
        rotary.q_norm = layer.q_norm;
        rotary.k_norm = layer.k_norm;
        rotary.slots = view.slots;
        rotary.cache = attention.cache = step.caches[index];
        if (!a.attention.only_decodes) rotary_phase(worker, rotary);
        attention.window = layer.window;
        attention.sequences = view.sequences;
        attention_phase(worker, attention, a.attention.only_decodes ? &rotary : nullptr, a.attention);
        linear_phase(worker, {layer.o, {attended, q_size, nullptr, 0.0f}, tokens, layer.o_bias, TW_ADD,
                              step.hidden, hidden});
        linear_phase(worker, {layer.gate_up, {step.hidden, hidden, layer.mlp_norm, model.eps}, tokens,
                              layer.gate_up_bias, TW_SILU_AND_MUL, gated, model.intermediate_size});
        linear_phase(worker, {layer.down, {gated, model.intermediate_size, nullptr, 0.0f}, tokens,
                              layer.down_bias, TW_ADD, step.hidden, hidden});
    }
    if (step.logits == nullptr) return;
    linear_phase(worker, {model.lm_head, {step.hidden, hidden, model.final_norm, model.eps}, tokens, nullptr,
                          TW_STORE, step.logits, model.vocab_size});
    if (step.tokens != nullptr)
        greedy_phase(worker, {step.logits, TW_FLOAT32, tokens, model.vocab_size, model.vocab_size, step.tokens});
}

void linear_body(Worker &worker, const void *argument) {
    linear_phase(worker, *static_cast<const LinearArguments *>(argument));
}

}  // namespace
