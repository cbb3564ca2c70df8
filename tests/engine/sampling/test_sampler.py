"""Each row is sampled with its own request's parameters, whatever the batch."""

from __future__ import annotations

import numpy as np
import torch

from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.sampler import Sampler
from tokenwire_kernels import select_kernels

CPU = torch.device("cpu")
VOCAB = 200


def sampler_of(*params: SamplingParams) -> Sampler:
    sampler = Sampler(len(params), VOCAB, CPU, select_kernels(CPU))
    for slot, each in enumerate(params):
        sampler.admit(slot, each, [], [])
    return sampler


def sample(sampler: Sampler, slots: list[int], logits: torch.Tensor, positions: list[int]) -> list[int]:
    arrays = sampler.prepare(slots, np.array(positions))
    sent = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return sampler.sample(logits.clone(), slots, sent).tokens.tolist()


def test_a_greedy_batch_needs_nothing_on_the_device() -> None:
    sampler = sampler_of(SamplingParams(temperature=0.0), SamplingParams(temperature=0.0, top_p=0.5))
    assert sampler.prepare([0, 1], np.array([3, 4])) == {}
    logits = torch.randn(2, VOCAB)
    assert sample(sampler, [0, 1], logits, [3, 4]) == logits.argmax(dim=-1).tolist()


def test_a_greedy_request_stays_greedy_beside_others() -> None:
    sampler = sampler_of(SamplingParams(temperature=0.0), SamplingParams(temperature=2.0, seed=1))
    logits = torch.randn(2, VOCAB)
    assert all(sample(sampler, [0, 1], logits, [p, p])[0] == logits[0].argmax() for p in range(20))


def test_a_row_depends_on_its_seed_sample_index_and_position_and_not_on_its_company() -> None:
    sampler = sampler_of(
        SamplingParams(seed=11), SamplingParams(seed=12), SamplingParams(seed=11, sample_index=1)
    )
    logits = torch.randn(1, VOCAB)
    alone = [sample(sampler, [0], logits, [position])[0] for position in range(30)]
    three = logits.expand(3, -1)
    together = [sample(sampler, [2, 0, 1], three, [position] * 3) for position in range(30)]
    assert [row[1] for row in together] == alone
    assert [row[0] for row in together] != alone
    assert [row[2] for row in together] != alone
    assert len(set(alone)) > 5


def test_seeds_of_any_64_bits_are_taken() -> None:
    sampler = sampler_of(
        SamplingParams(seed=2**64 - 1), SamplingParams(seed=-1), SamplingParams(seed=-(2**63))
    )
    first, second, _ = sample(sampler, [0, 1, 2], torch.randn(1, VOCAB).expand(3, -1), [0, 0, 0])
    assert first == second


def test_top_k_of_one_is_greedy_and_a_large_one_is_none() -> None:
    sampler = sampler_of(SamplingParams(top_k=1), SamplingParams(top_k=2**31 - 1))
    logits = torch.randn(2, VOCAB)
    assert sample(sampler, [0, 1], logits, [5, 5])[0] == logits[0].argmax()
