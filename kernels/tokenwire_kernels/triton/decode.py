"""What comes before and after the forward pass of a step of decodes, on rows that stay on the device.

A few bytes a row: these kernels cost their launch. Block tables are copied as far as the contexts reach,
4 bytes read and written for each block.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import DecodeRows
from tokenwire_kernels.triton.sizes import ceil_div

_ROWS = 128
_BLOCKS = 512
"""Entries of a block table that a program copies."""


def advance_decodes(rows: DecodeRows, latest_tokens: Tensor) -> None:
    """See `reference.decode.advance_decodes`."""
    num_rows = rows.slots.shape[0]
    _advance_kernel[(ceil_div(num_rows, _ROWS),)](
        rows.slots, rows.positions, rows.token_ids, rows.context_lens, rows.next_positions, rows.step,
        latest_tokens, num_rows, ROWS=_ROWS, num_warps=4,
    )  # fmt: skip


def gather_block_tables(
    rows: DecodeRows, tables: Tensor, row_tables: Tensor, cache_slots: Tensor, block_size: int
) -> None:
    """See `reference.decode.gather_block_tables`. The grid covers the longest table: nothing is asked of
    the device, and parts beyond a row's context leave at once."""
    num_rows, max_blocks = row_tables.shape
    _gather_kernel[(num_rows, ceil_div(max_blocks, _BLOCKS))](
        rows.slots, rows.positions, tables, row_tables, cache_slots,
        tables.stride(0), row_tables.stride(0),
        BLOCK_SIZE=block_size, BLOCKS=_BLOCKS, num_warps=4,
    )  # fmt: skip


def record_tokens(tokens: Tensor, rows: DecodeRows, latest_tokens: Tensor, history: Tensor) -> None:
    """See `reference.decode.record_tokens`."""
    num_rows = tokens.shape[0]
    _record_kernel[(ceil_div(num_rows, _ROWS),)](
        tokens, rows.slots, rows.step, latest_tokens, history, num_rows, history.stride(0),
        LENGTH=history.shape[0], ROWS=_ROWS, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])
def _advance_kernel(
    slots_ptr, positions_ptr, token_ids_ptr, context_lens_ptr, next_positions_ptr, step_ptr,
    latest_tokens_ptr, num_rows, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < num_rows
    slot = tl.load(slots_ptr + row, mask=mask, other=-1)
    has_slot = slot >= 0
    position = tl.where(has_slot, tl.load(positions_ptr + row, mask=mask, other=0) + 1, 0)
    token = tl.load(latest_tokens_ptr + slot, mask=has_slot, other=0)
    tl.store(positions_ptr + row, position, mask=mask)
    tl.store(token_ids_ptr + row, token, mask=mask)
    tl.store(next_positions_ptr + row, position + 1, mask=mask)
    tl.store(context_lens_ptr + row, (position + 1).to(tl.int32), mask=mask)
    if tl.program_id(0) == 0:  # no other program reads it
        tl.store(step_ptr, tl.load(step_ptr) + 1)


@triton.jit
def _gather_kernel(
    slots_ptr, positions_ptr, tables_ptr, row_tables_ptr, cache_slots_ptr, table_stride, row_table_stride,
    BLOCK_SIZE: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots_ptr + row)
    has_slot = slot >= 0
    position = tl.load(positions_ptr + row)
    last = position // BLOCK_SIZE
    if part * BLOCKS > last:
        return
    table_ptr = tables_ptr + slot * table_stride
    index = part * BLOCKS + tl.arange(0, BLOCKS)
    used = index <= last
    blocks = tl.load(table_ptr + index, mask=used & has_slot, other=0)
    tl.store(row_tables_ptr + row * row_table_stride + index, blocks, mask=used)
    if part == 0:
        block = tl.load(table_ptr + last, mask=has_slot, other=0).to(tl.int64)
        cache_slot = tl.where(has_slot, block * BLOCK_SIZE + position % BLOCK_SIZE, -1)
        tl.store(cache_slots_ptr + row, cache_slot)


@triton.jit(do_not_specialize=["num_rows"])
def _record_kernel(
    tokens_ptr, slots_ptr, step_ptr, latest_tokens_ptr, history_ptr, num_rows, history_stride,
    LENGTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < num_rows
    slot = tl.load(slots_ptr + row, mask=mask, other=-1)
    token = tl.load(tokens_ptr + row, mask=mask, other=0)
    place = tl.load(step_ptr) % LENGTH
    tl.store(latest_tokens_ptr + slot, token, mask=slot >= 0)
    tl.store(history_ptr + place * history_stride + row, token, mask=mask)
