"""Withholding the tokens that a grammar's bitmask leaves out."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.kernels.tables import DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", [1, 32, 77, 5000])
def test_tokens_without_their_bit_are_withheld(
    kernels: ModuleType, dtype: torch.dtype, vocab_size: int
) -> None:
    logits = torch.randn(4, vocab_size).to(dtype)
    words = -(-vocab_size // 32)
    bitmask = torch.randint(-(2**31), 2**31, (2, words), dtype=torch.int32)
    rows = torch.tensor([3, 1])
    expected = logits.clone()
    for row, mask in zip(rows.tolist(), bitmask.tolist(), strict=True):
        for token in range(vocab_size):
            if not (mask[token // 32] >> token % 32) & 1:
                expected[row, token] = -torch.inf

    kernels.apply_token_bitmask(logits, bitmask, rows)

    assert torch.equal(logits, expected)


def test_no_row_is_masked_where_none_is_named(kernels: ModuleType) -> None:
    logits = torch.randn(2, 40)
    before = logits.clone()
    kernels.apply_token_bitmask(
        logits, torch.zeros(0, 2, dtype=torch.int32), torch.zeros(0, dtype=torch.int64)
    )
    assert torch.equal(logits, before)


def test_a_mask_may_be_longer_than_the_vocabulary(kernels: ModuleType) -> None:
    logits = torch.zeros(2, 64)
    bitmask = torch.tensor([[0, 1, -1, -1], [2, 0, -1, -1]], dtype=torch.int32)
    kernels.apply_token_bitmask(logits, bitmask, torch.tensor([0, 1]))
    assert logits.eq(0).nonzero().tolist() == [[0, 32], [1, 1]]
