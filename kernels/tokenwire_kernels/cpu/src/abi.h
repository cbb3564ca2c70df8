// What the library offers to other languages: plain C functions over pointers and strides.
//
// Every structure is filled by the caller and only read here. The same layout is declared in `library.py`.

#pragma once

#include <cstdint>

#define TW_EXPORT extern "C" __attribute__((visibility("default")))

// Number formats of activations, caches and weights as they are stored by the caller. Only caches are int8.
enum tw_dtype : int32_t { TW_FLOAT32 = 0, TW_BFLOAT16 = 1, TW_FLOAT16 = 2, TW_INT8 = 3 };

// Number formats of packed weights; compact: bfloat16 in 12 bits each.
enum tw_format : int32_t {
    TW_W_FLOAT32 = 0, TW_W_BFLOAT16 = 1, TW_W_FLOAT16 = 2, TW_W_INT8 = 3, TW_W_INT4 = 4, TW_W_COMPACT = 5
};

// What a product does with its result.
enum tw_output : int32_t { TW_STORE = 0, TW_ADD = 1, TW_SILU_AND_MUL = 2 };

struct tw_context;

// A weight matrix [n, k] in panels of output features, the order in which the kernel streams it.
struct tw_matrix {
    int32_t format;
    int32_t group;        // Inputs that share a scale; 0: all of them (int8 only).
    int32_t is_paired;    // The first half of the rows (a gate) and the second lie side by side in a panel.
    int32_t padding;
    int64_t n;            // Output features.
    int64_t k;            // Input features.
    uint8_t *panels;
    void *scales;         // float32 [panels, groups, panel width] for int8, float16 for int4; see `tw_compact_panel`.
};

// What is known of a panel of a compact matrix. Behind those of all panels lie the patches, in order.
struct tw_compact_panel {
    uint8_t upper[16];    // The upper byte that each code of 4 bits stands for.
    int64_t first_patch;  // Numbers whose upper byte has no code.
    int64_t num_patches;
};

struct tw_patch {
    int32_t place;        // Of the number in the panel of bfloat16.
    uint16_t number;
    uint16_t padding;
};

// A row of activations on its way into a product: x, or rms_norm(x) where `norm` is given.
struct tw_input {
    const float *x;
    int64_t stride;
    const float *norm;    // [k], or null.
    float eps;
};

struct tw_layer {
    const float *attention_norm;
    const float *mlp_norm;
    const float *q_norm;  // Null where the architecture has none, as for the biases.
    const float *k_norm;
    const tw_matrix *qkv;
    const tw_matrix *o;
    const tw_matrix *gate_up;
    const tw_matrix *down;
    const float *qkv_bias;
    const float *o_bias;
    const float *gate_up_bias;
    const float *down_bias;
    int64_t window;
    int64_t group;        // Which of a step's views it has.
};

struct tw_model {
    int64_t num_layers;
    int64_t hidden_size;
    int64_t intermediate_size;
    int64_t vocab_size;
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;
    int64_t num_positions;
    float eps;
    float attention_scale;
    float soft_cap;
    int32_t embedding_dtype;
    const void *embedding;  // [vocab_size, hidden_size], as the checkpoint stores it.
    const float *cos;       // [num_positions, head_dim / 2]
    const float *sin;
    const float *final_norm;
    const tw_matrix *lm_head;
    const tw_layer *layers;
};

// A paged cache: keys and values of one layer, each [num_blocks, num_kv_heads, block_size, head_dim]. Of int8
// each head is followed by four bytes more: the float32 that its codes are multiplied with.
struct tw_cache {
    void *keys;
    void *values;
};

// A flat batch of query tokens, sequence after sequence (see `AttentionBatch`).
struct tw_sequences {
    const int32_t *block_tables;   // [num_seqs, table_stride]
    int64_t table_stride;
    const int32_t *query_starts;   // [num_seqs + 1]
    const int32_t *context_lens;   // [num_seqs]
    int64_t num_seqs;
    int64_t num_tokens;
};

struct tw_cache_shape {
    int64_t num_kv_heads;
    int64_t block_size;
    int64_t head_dim;
    int32_t dtype;
    int32_t padding;
};

struct tw_attention {
    const void *q;                 // [num_tokens, num_heads, head_dim]
    int64_t q_token_stride;
    int64_t q_head_stride;
    void *out;                     // [num_tokens, num_heads, head_dim], contiguous.
    int64_t num_heads;
    int32_t dtype;                 // Of q and out.
    float scale;
    float soft_cap;
    int32_t padding;
    int64_t window;
    tw_cache cache;
    tw_cache_shape shape;
    tw_sequences sequences;
};

struct tw_rotary {
    void *q;                       // [num_tokens, num_heads, head_dim], rotated in place.
    const void *k;                 // [num_tokens, num_kv_heads, head_dim]
    const void *v;
    int64_t q_token_stride, q_head_stride;
    int64_t k_token_stride, k_head_stride;
    int64_t v_token_stride, v_head_stride;
    int64_t num_tokens;
    int64_t num_heads;
    int64_t half;                  // Pairs that rotate in each head.
    const float *cos;              // [positions, half]
    const float *sin;
    const int64_t *positions;      // [num_tokens]
    const int64_t *slots;          // [num_tokens]; -1: not stored.
    const float *q_norm;           // [head_dim], or null: RMS-normalize each head first.
    const float *k_norm;
    float eps;
    int32_t dtype;                 // Of q, k and v.
    tw_cache cache;
    tw_cache_shape shape;
};

// Where one group of layers finds a batch's keys and values; groups differ in slots and block tables only.
struct tw_view {
    const int64_t *slots;          // [num_tokens]
    tw_sequences sequences;
};

struct tw_step {
    const int64_t *token_ids;
    const int64_t *positions;
    const tw_view *views;          // One per group of layers.
    const tw_cache *caches;        // One per layer.
    tw_cache_shape shape;
    float *hidden;                 // [num_tokens, hidden_size]: the residual stream after the last layer.
    float *logits;                 // [num_tokens, vocab_size], or null: not wanted, nor tokens.
    int64_t *tokens;               // [num_tokens]: the most likely one behind each, or null: not wanted.
};

// The rows of a step that decode, one token each, and the memory that the step's inputs are read from: what a row
// reads in its next step follows from what it has read and yielded in this one.
struct tw_decodes {
    const int64_t *slots;          // [num_rows], as are the others: where a row's latest token is.
    const int64_t *bases;          // Positions, less the number of steps made.
    int64_t *latest_tokens;        // By slot.
    int64_t *token_ids;
    int64_t *positions;
    int64_t *next_positions;       // Of the tokens behind them; no input.
    int32_t *context_lens;         // Of every view.
    int64_t *cache_slots;          // [num_groups, num_rows]: the views' slots.
    int64_t num_groups;
};

struct tw_sampling {
    const float *temperatures;     // [num_rows], as are the others.
    const int32_t *top_k;
    const float *top_p;
    const float *min_p;
    const float *typical_p;        // Null: 1 for all.
    const int64_t *keys;           // [num_rows, 2], each below 2**32.
    int64_t num_rows;
    int64_t vocab_size;
};

// A digest of the sources that the library was made of: who has others must not call it.
TW_EXPORT const char *tw_sources(void);

// Instruction sets, weakest first; -1 where there is no further one. `tw_runs` says whether this CPU has it.
TW_EXPORT const char *tw_instruction_set(int32_t index);
TW_EXPORT int32_t tw_runs(int32_t index);

// A pool of `num_threads` threads, the caller's included, that compute with one instruction set. Each thread
// but the caller's is pinned to its CPU of `cpus` where those are given. Null: the CPU lacks the set.
TW_EXPORT tw_context *tw_open(int32_t instruction_set, int32_t num_threads, const int32_t *cpus);
TW_EXPORT void tw_close(tw_context *context);

// Anonymous memory in large pages where the system has them, zeroed. Null: there is not so much.
TW_EXPORT void *tw_allocate(int64_t num_bytes);
TW_EXPORT void tw_free(void *memory, int64_t num_bytes);

// Bytes of a matrix's panels and scales for this context's kernels.
TW_EXPORT int64_t tw_panel_bytes(tw_context *context, const tw_matrix *matrix);
TW_EXPORT int64_t tw_scale_bytes(tw_context *context, const tw_matrix *matrix);

// Pack `num_rows` rows of weights behind the matrix's first `first_row`; `stride` is in elements.
TW_EXPORT void tw_pack(tw_context *context, const tw_matrix *matrix, int64_t first_row, int64_t num_rows,
                       const void *weights, int32_t dtype, int64_t stride);
// The same of weights that are codes (int8, also those of 4 bits) times a scale for each group of inputs.
TW_EXPORT void tw_pack_codes(tw_context *context, const tw_matrix *matrix, int64_t first_row, int64_t num_rows,
                             const int8_t *codes, const float *scales);

// The panels of a compact matrix for the numbers of one of bfloat16; returns how many numbers need patches. Then the
// matrix itself, into memory for its panels, and for `panels` and the patches behind each other.
TW_EXPORT int64_t tw_choose_codes(tw_context *context, const tw_matrix *matrix, tw_compact_panel *panels);
TW_EXPORT void tw_compact(tw_context *context, const tw_matrix *from, const tw_matrix *to);

// Round rows of weights to codes of `bits` bits (8 or 4), each group of inputs under the scale of the `num_shrinkages`
// tried that loses least: a share of the one under which the group's largest weight is the largest code.
TW_EXPORT void tw_quantize(tw_context *context, const void *weights, int32_t dtype, int64_t stride, int64_t num_rows,
                           int64_t k, int32_t bits, int64_t group, const float *shrinkages, int64_t num_shrinkages,
                           int8_t *codes, float *scales);

// out = x Wᵀ + bias, added to or gated as `mode` says.
TW_EXPORT void tw_linear(tw_context *context, const tw_matrix *matrix, const tw_input *input, int64_t num_rows,
                         const float *bias, int32_t mode, float *out, int64_t out_stride);

TW_EXPORT void tw_rms_norm(tw_context *context, const void *x, void *residual, const void *weight, void *out,
                           int64_t outer, int64_t inner, int64_t hidden, int64_t outer_stride,
                           int64_t inner_stride, float eps, int32_t dtype);
TW_EXPORT void tw_silu_and_mul(tw_context *context, const void *gate_up, void *out, int64_t num_tokens,
                               int64_t intermediate, int64_t stride, int32_t dtype);
TW_EXPORT void tw_rotary_and_cache(tw_context *context, const tw_rotary *rotary);
TW_EXPORT void tw_paged_attention(tw_context *context, const tw_attention *attention);
TW_EXPORT void tw_greedy(tw_context *context, const void *logits, int32_t dtype, int64_t num_rows,
                         int64_t vocab_size, int64_t stride, int64_t *tokens);
// logits[rows[i]] at token t becomes minus infinity where bit t % 32 of bitmask[i, t / 32] is not set; a row of
// the bitmask has `words` of them.
TW_EXPORT void tw_apply_bitmask(tw_context *context, void *logits, int32_t dtype, int64_t vocab_size, int64_t stride,
                                const uint32_t *bitmask, int64_t words, const int64_t *rows, int64_t num_masked);
TW_EXPORT void tw_sample(tw_context *context, const float *logits, const tw_sampling *sampling, int64_t *tokens);

// One forward pass: embeddings to the last layer's residual stream, or on to logits and tokens. 0, or 1 + the index of
// a token whose id lies outside the vocabulary; nothing was computed then.
TW_EXPORT int64_t tw_forward(tw_context *context, const tw_model *model, const tw_step *step);
// The same of rows that have made `shift` steps, from their latest tokens; the step's tokens, where they are wanted,
// become the latest ones.
TW_EXPORT int64_t tw_decode(tw_context *context, const tw_model *model, const tw_step *step,
                            const tw_decodes *decodes, int64_t shift);
// logits[i] = lm_head(final_norm(hidden[i])), float32 [num_rows, vocab_size].
TW_EXPORT void tw_logits(tw_context *context, const tw_model *model, const float *hidden, int64_t stride,
                         int64_t num_rows, float *logits);
