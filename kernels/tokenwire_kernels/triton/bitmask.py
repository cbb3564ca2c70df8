"""Withholding tokens by bit mask. A program reads the words of its columns and writes minus infinity only."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.triton.sizes import ceil_div

MASK_COLUMNS = 4096


def apply_token_bitmask(logits: Tensor, bitmask: Tensor, rows: Tensor) -> None:
    """See `reference.bitmask.apply_token_bitmask`."""
    num_masked, vocab_size = len(rows), logits.shape[1]
    if num_masked == 0:
        return
    _bitmask_kernel[(num_masked, ceil_div(vocab_size, MASK_COLUMNS))](
        logits, bitmask, rows, vocab_size, logits.stride(0), bitmask.stride(0),
        COLUMNS=MASK_COLUMNS, num_warps=8,
    )  # fmt: skip


@triton.jit
def _bitmask_kernel(
    logits_ptr, bitmask_ptr, rows_ptr, vocab_size, row_stride, mask_stride, COLUMNS: tl.constexpr
):
    masked = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + masked)
    token = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = token < vocab_size
    word = tl.load(bitmask_ptr + masked * mask_stride + (token >> 5), mask=inside, other=0)
    withheld = ((word >> (token & 31)) & 1) == 0
    tl.store(logits_ptr + row * row_stride + token, float("-inf"), mask=inside & withheld)
