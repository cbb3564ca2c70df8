"""Penalties in one launch: only the logits of tokens that a request has seen are read and written.

Bytes: 5 for each token of the vocabulary and row, which are the counts.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import PenaltyBatch
from tokenwire_kernels.triton.sizes import ceil_div

_COLUMNS = 2048


def apply_penalties(logits: Tensor, in_prompt: Tensor, in_output: Tensor, batch: PenaltyBatch) -> None:
    """See `reference.penalties.apply_penalties`. The rows of logits may be apart."""
    vocab_size = logits.shape[1]
    _penalties_kernel[(len(batch.rows), ceil_div(vocab_size, _COLUMNS))](
        logits, in_prompt.view(torch.uint8), in_output, batch.rows, batch.counted,
        batch.repetition, batch.presence, batch.frequency, vocab_size, logits.stride(0),
        COLUMNS=_COLUMNS, num_warps=4,
    )  # fmt: skip


@triton.jit
def _penalties_kernel(
    logits_ptr, in_prompt_ptr, in_output_ptr, rows_ptr, counted_ptr,
    repetition_ptr, presence_ptr, frequency_ptr, vocab_size, row_stride, COLUMNS: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    token = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = token < vocab_size
    counted_at = tl.load(counted_ptr + index) * vocab_size + token
    count = tl.load(in_output_ptr + counted_at, mask=inside, other=0)
    seen = (count > 0) | (tl.load(in_prompt_ptr + counted_at, mask=inside, other=0) != 0)
    at = logits_ptr + tl.load(rows_ptr + index) * row_stride + token
    logits = tl.load(at, mask=seen, other=0.0)
    repetition = tl.load(repetition_ptr + index)
    logits = tl.where(logits > 0.0, logits / repetition, logits * repetition)
    logits -= tl.load(frequency_ptr + index) * count.to(tl.float32)
    logits -= tl.where(count > 0, tl.load(presence_ptr + index), 0.0)
    tl.store(at, logits, mask=seen)
