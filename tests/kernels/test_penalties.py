"""Repetition, presence and frequency penalties."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenwire_kernels import PenaltyBatch, reference, triton


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def penalized(
    logit: float, prompt: bool, count: int, repetition: float, presence: float, freq: float
) -> float:
    """What is left of one logit, in double precision."""
    if prompt or count:
        logit = logit / repetition if logit > 0 else logit * repetition
    return logit - freq * count - (presence if count else 0.0)


@pytest.mark.parametrize("vocab_size", [1, 77, 5000])
def test_each_row_is_penalized_by_its_own_counts(kernels: ModuleType, vocab_size: int) -> None:
    logits = 5 * torch.randn(5, vocab_size)
    in_prompt = torch.rand(4, vocab_size) < 0.3
    in_output = torch.randint(0, 3, (4, vocab_size), dtype=torch.int32)
    batch = PenaltyBatch(
        rows=torch.tensor([4, 1]), counted=torch.tensor([0, 3]),
        repetition=column(1.3, 0.8), presence=column(0.5, 0.0), frequency=column(-0.25, 0.75),
    )  # fmt: skip
    expected = logits.double()
    for index, (row, counted) in enumerate(zip(batch.rows.tolist(), batch.counted.tolist(), strict=True)):
        amounts = [float(x[index]) for x in (batch.repetition, batch.presence, batch.frequency)]
        expected[row] = torch.tensor(
            [
                penalized(
                    float(logits[row, t]), bool(in_prompt[counted, t]), int(in_output[counted, t]), *amounts
                )
                for t in range(vocab_size)
            ],
            dtype=torch.float64,
        )
    kernels.apply_penalties(logits, in_prompt, in_output, batch)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_withheld_token_stays_withheld(kernels: ModuleType) -> None:
    logits = torch.full((1, 4), -float("inf"))
    counts = torch.tensor([[0, 1, 0, 2]], dtype=torch.int32)
    batch = PenaltyBatch(torch.tensor([0]), torch.tensor([0]), column(1.5), column(0.5), column(0.5))
    kernels.apply_penalties(logits, counts > 1, counts, batch)
    assert logits.eq(-float("inf")).all()


@settings(max_examples=25, deadline=None)
@given(
    logits=st.lists(st.floats(-9, 9, width=16), min_size=1, max_size=8),
    repetition=st.floats(0.25, 3, width=16),
    presence=st.floats(-2, 2, width=16),
    frequency=st.floats(-2, 2, width=16),
    data=st.data(),
)
def test_triton_penalizes_as_the_reference(
    logits: list[float], repetition: float, presence: float, frequency: float, data: st.DataObject
) -> None:
    size = len(logits)
    prompt = torch.tensor([data.draw(st.lists(st.booleans(), min_size=size, max_size=size))])
    output = torch.tensor(
        [data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))], dtype=torch.int32
    )
    batch = PenaltyBatch(
        torch.tensor([0]), torch.tensor([0]), column(repetition), column(presence), column(frequency)
    )
    results = []
    for kernels in (reference, triton):
        row = torch.tensor([logits], dtype=torch.float32)
        kernels.apply_penalties(row, prompt, output, batch)
        results.append(row)
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
