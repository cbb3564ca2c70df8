// The functions that exist once for every instruction set.

#pragma once

#include "abi.h"
#include "pool.h"

namespace tokenwire {

struct Table {
    int64_t (*panel_bytes)(const tw_matrix *);
    int64_t (*scale_bytes)(const tw_matrix *);
    void (*pack)(Pool &, const tw_matrix *, int64_t first_row, int64_t num_rows, const void *, int32_t dtype,
                 int64_t stride, const int8_t *codes, const float *scales);
    int64_t (*choose_codes)(Pool &, const tw_matrix *, tw_compact_panel *);
    void (*compact)(Pool &, const tw_matrix *from, const tw_matrix *to);
    void (*quantize)(Pool &, const void *, int32_t dtype, int64_t stride, int64_t num_rows, int64_t k, int32_t bits,
                     int64_t group, const float *shrinkages, int64_t num_shrinkages, int8_t *codes, float *scales);
    void (*linear)(Pool &, const tw_matrix *, const tw_input *, int64_t num_rows, const float *bias, int32_t mode,
                   float *out, int64_t out_stride);
    void (*rms_norm)(Pool &, const void *x, void *residual, const void *weight, void *out, int64_t outer,
                     int64_t inner, int64_t hidden, int64_t outer_stride, int64_t inner_stride, float eps,
                     int32_t dtype);
    void (*silu_and_mul)(Pool &, const void *, void *, int64_t num_tokens, int64_t intermediate, int64_t stride,
                         int32_t dtype);
    void (*rotary_and_cache)(Pool &, const tw_rotary *);
    void (*paged_attention)(Pool &, const tw_attention *);
    void (*greedy)(Pool &, const void *, int32_t dtype, int64_t num_rows, int64_t vocab_size, int64_t stride,
                   int64_t *tokens);
    void (*apply_bitmask)(Pool &, void *, int32_t dtype, int64_t vocab_size, int64_t stride, const uint32_t *,
                          int64_t words, const int64_t *rows, int64_t num_masked);
    void (*sample)(Pool &, const float *, const tw_sampling *, int64_t *tokens);
    void (*forward)(Pool &, const tw_model *, const tw_step *);
    void (*logits)(Pool &, const tw_model *, const float *hidden, int64_t stride, int64_t num_rows, float *out);
};

// Null where the library was compiled without the instruction set.
const Table *portable_table();
const Table *avx2_table();
const Table *avx512_table();
const Table *avx512_vnni_table();
const Table *avx512_bf16_table();
const Table *amx_table();

}  // namespace tokenwire
