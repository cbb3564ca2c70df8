"""One sampling step by hand: what the runner does, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.sampler import Sampled, Sampler
from tokenwire_kernels import select_kernels

CPU = torch.device("cpu")
VOCAB = 50


def new_sampler(num_slots: int = 1, vocab_size: int = VOCAB) -> Sampler:
    return Sampler(num_slots, vocab_size, CPU, select_kernels(CPU))


def step(
    sampler: Sampler, slots: list[int], logits: Tensor, positions: Sequence[int] | None = None
) -> tuple[Sampled, Tensor]:
    """What these slots sample, and the logits that they sampled from."""
    logits = logits.clone()
    places = np.array(positions if positions is not None else range(len(slots)))
    sent = {name: torch.from_numpy(array) for name, array in sampler.prepare(slots, places).items()}
    return sampler.sample(logits, slots, sent), logits


def changed(
    params: SamplingParams, logits: Tensor, prompt: Sequence[int] = (), output: Sequence[int] = ()
) -> Tensor:
    """The logits `[1, vocab_size]` that a request with this prompt and output samples from."""
    sampler = new_sampler(vocab_size=logits.shape[1])
    sampler.admit(0, params, prompt, output)
    return step(sampler, [0], logits, [len(prompt) + len(output)])[1]
