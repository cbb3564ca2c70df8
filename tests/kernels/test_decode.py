"""What moves decoding rows on from step to step on the device."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from tokenwire_kernels import DecodeRows

BLOCK_SIZE = 16


def rows_of(slots: list[int], positions: list[int]) -> DecodeRows:
    """Rows whose outputs are poisoned."""
    count = len(slots)
    return DecodeRows(
        slots=torch.tensor(slots),
        positions=torch.tensor(positions),
        token_ids=torch.full((count,), -7),
        context_lens=torch.full((count,), -7, dtype=torch.int32),
        next_positions=torch.full((count,), -7),
        step=torch.tensor([4]),
    )


def test_each_row_moves_on_to_the_token_that_its_slot_sampled(kernels: ModuleType) -> None:
    rows = rows_of([2, 0, -1, 3], [40, 0, 99, 7])
    latest = torch.tensor([11, 12, 13, 14])
    kernels.advance_decodes(rows, latest)
    assert rows.token_ids.tolist() == [13, 11, 0, 14]
    assert rows.positions.tolist() == [41, 1, 0, 8]
    assert rows.context_lens.tolist() == [42, 2, 1, 9]
    assert rows.next_positions.tolist() == [42, 2, 1, 9]
    assert rows.step.tolist() == [5]
    assert latest.tolist() == [11, 12, 13, 14]


def test_more_rows_than_a_program_takes_move_on_together(kernels: ModuleType) -> None:
    count = 300
    rows = rows_of(torch.randperm(count).tolist(), torch.randint(0, 1000, (count,)).tolist())
    before, latest = rows.positions.clone(), torch.randint(0, 1000, (count,))
    kernels.advance_decodes(rows, latest)
    assert torch.equal(rows.positions, before + 1)
    assert torch.equal(rows.token_ids, latest[rows.slots])
    assert rows.step.tolist() == [5]


def test_tables_are_gathered_as_far_as_the_contexts_reach(kernels: ModuleType) -> None:
    tables = torch.randint(0, 10_000, (5, 600), dtype=torch.int32)
    positions = [0, 16, 599 * 16 + 3, 0, 31]
    rows = rows_of([4, 1, 0, -1, 2], positions)
    rows.context_lens.copy_(rows.positions + 1)
    gathered = torch.full((5, 600), -7, dtype=torch.int32)
    cache_slots = torch.full((5,), -7)

    kernels.gather_block_tables(rows, tables, gathered, cache_slots, BLOCK_SIZE)

    for row, (slot, position) in enumerate(zip(rows.slots.tolist(), positions, strict=True)):
        used = position // BLOCK_SIZE + 1
        if slot < 0:
            assert gathered[row, :used].tolist() == [0]
            assert cache_slots[row] == -1
            continue
        assert torch.equal(gathered[row, :used], tables[slot, :used])
        block = int(tables[slot, position // BLOCK_SIZE])
        assert cache_slots[row] == block * BLOCK_SIZE + position % BLOCK_SIZE
        assert set(gathered[row, used:].tolist()) <= {-7}


def test_sampled_tokens_are_kept_by_slot_and_by_step(kernels: ModuleType) -> None:
    rows = rows_of([2, -1, 0], [5, 5, 5])
    latest, history = torch.full((4,), -7), torch.full((2, 6), -7)
    tokens = torch.tensor([21, 22, 23])
    kernels.record_tokens(tokens, rows, latest, history)
    assert latest.tolist() == [23, -7, 21, -7]
    assert _known(history[0], 3) == [21, 22, 23]
    rows.step.add_(1)
    kernels.record_tokens(tokens + 10, rows, latest, history)
    assert latest.tolist() == [33, -7, 31, -7]
    assert _known(history[1], 3) == [31, 32, 33]
    assert _known(history[0], 3) == [21, 22, 23]


def _known(row: Tensor, count: int) -> list[int]:
    """The first entries; the others are as they were."""
    assert set(row[count:].tolist()) == {-7}
    return row[:count].tolist()
