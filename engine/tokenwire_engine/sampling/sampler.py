"""From logits to each slot's next token.

A slot's parameters are written once, when its request is admitted; a step picks the rows it needs. What few
requests ask for has a module of its own, which touches only their rows: a step in which every request is
greedy and none asks for more is one argmax. Nothing here waits for the device.

In this order: log-probabilities are of the logits as they came; then penalties, biases, and what is withheld
(bad words, minimum lengths, what a grammar does not allow); then temperature and filters, in the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.sampling.bad_words import BadWords
from tokenwire_engine.sampling.bias import Biases
from tokenwire_engine.sampling.masks import withhold
from tokenwire_engine.sampling.min_tokens import MinTokens
from tokenwire_engine.sampling.mode import SamplingMode
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.penalties import Penalties
from tokenwire_engine.sampling.scores import Scores
from tokenwire_engine.scheduler.plan import TokenMasks
from tokenwire_kernels import Kernels, SamplingBatch

COLUMNS: dict[str, type[np.generic]] = {
    "temperatures": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
    "typical_p": np.float32,
    "seeds": np.int64,
    "sample_indices": np.int32,
}
"""A `SamplingBatch`'s tensors that do not change while a request runs."""


def sampling_batch(
    columns: Mapping[str, Tensor],
    positions: Tensor,
    *,
    all_unfiltered: bool,
    typical_p: Tensor | None = None,
) -> SamplingBatch:
    """Rows as the kernel takes them.

    Args:
        columns: `[num_rows]` each, by the names of `COLUMNS`; that of typical-p is not looked at.
        positions: int64 `[num_rows]`, of the tokens to be sampled.
        all_unfiltered: whether no row has top-k, top-p or min-p.
        typical_p: float32 `[num_rows]`, where a row has it.
    """
    return SamplingBatch(
        temperatures=columns["temperatures"],
        top_k=columns["top_k"],
        top_p=columns["top_p"],
        min_p=columns["min_p"],
        seeds=columns["seeds"],
        sample_indices=columns["sample_indices"],
        positions=positions,
        typical_p=typical_p,
        all_unfiltered=all_unfiltered,
    )


@dataclass(slots=True)
class Sampled:
    """What a step sampled, on the device."""

    tokens: Tensor
    """int64 `[num_rows]`."""
    scores: Scores | None
    """Of the rows whose request asks for log-probabilities, in order; None when no one does."""


class Sampler:
    """Chooses the next tokens of the slots' requests."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device, kernels: Kernels) -> None:
        self._vocab_size = vocab_size
        self._kernels = kernels
        self._params: dict[str, NDArray[Any]] = {
            name: np.zeros(num_slots, dtype) for name, dtype in COLUMNS.items()
        }
        self._filtered = np.zeros(num_slots, dtype=bool)
        self._special = np.zeros(num_slots, dtype=bool)
        """Slots whose request asks for more than the sampling kernel does."""
        self._changed = np.zeros(num_slots, dtype=bool)
        """Slots whose logits are changed before a token is sampled from them, whatever a grammar does."""
        self._num_logprobs: dict[int, int] = {}
        """Of the slots whose request asks for log-probabilities."""
        self._penalties = Penalties(vocab_size, device, kernels)
        self._biases = Biases(vocab_size, device)
        self._bad_words = BadWords(device)
        self._min_tokens = MinTokens()

    def admit(self, slot: int, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> None:
        """A request takes a slot, with the tokens it has so far."""
        columns = self._params
        columns["temperatures"][slot] = params.temperature
        columns["top_k"][slot] = min(params.top_k, self._vocab_size)
        columns["top_p"][slot] = params.top_p
        columns["min_p"][slot] = params.min_p
        columns["typical_p"][slot] = params.typical_p
        columns["seeds"][slot] = (params.seed + 2**63) % 2**64 - 2**63  # as a signed number of the same bits
        columns["sample_indices"][slot] = params.sample_index
        self._filtered[slot] = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0
        self._special[slot] = params.is_special
        self._changed[slot] = params.changes_logits
        self._num_logprobs.pop(slot, None)
        if params.num_logprobs is not None:
            self._num_logprobs[slot] = params.num_logprobs
        self._penalties.admit(slot, params, prompt, output)
        self._biases.admit(slot, params)
        self._bad_words.admit(slot, params, output)
        self._min_tokens.admit(slot, params, len(prompt), len(output))

    def release(self, slot: int) -> None:
        """The slot's request is gone."""
        self._num_logprobs.pop(slot, None)
        self._penalties.release(slot)
        self._biases.release(slot)
        self._bad_words.release(slot)
        self._min_tokens.release(slot)

    def mode(self, slots: NDArray[np.int64]) -> SamplingMode:
        """What it takes to sample these slots together, once grammars have withheld what they do."""
        if self._special[slots].any():
            return SamplingMode.SPECIAL
        if not self._params["temperatures"][slots].any():
            return SamplingMode.GREEDY
        return SamplingMode.FILTERED if self._filtered[slots].any() else SamplingMode.UNFILTERED

    def columns(self, slots: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """`COLUMNS` of these slots."""
        return {name: column[slots] for name, column in self._params.items()}

    def scored(self, slots: Sequence[int]) -> list[tuple[int, int]]:
        """(index, alternatives) of the rows whose request asks for log-probabilities."""
        if not self._num_logprobs:
            return []
        wanted = self._num_logprobs
        return [(index, wanted[slot]) for index, slot in enumerate(slots) if slot in wanted]

    def prepare(self, slots: Sequence[int], positions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What `sample` needs on the device.

        Args:
            slots: of each row of logits, in order.
            positions: the place in its sequence of each token to be sampled.
        """
        arrays = self._penalties.prepare(slots)
        arrays |= self._biases.prepare(slots)
        arrays |= self._bad_words.prepare(slots)
        arrays |= self._min_tokens.prepare(slots, positions)
        if scored := self.scored(slots):
            arrays["scored_rows"] = np.array([row for row, _ in scored], dtype=np.int64)
        index = np.array(slots, dtype=np.int64)
        if self._params["temperatures"][index].any():
            arrays |= self.columns(index)
            if (arrays["typical_p"] == 1.0).all():
                del arrays["typical_p"]
            arrays["sampled_positions"] = positions
        return arrays

    def sample(
        self,
        logits: Tensor,
        slots: Sequence[int],
        sent: dict[str, Tensor],
        masks: TokenMasks | None = None,
    ) -> Sampled:
        """The next token of each row.

        Args:
            logits: float32 `[num_rows, vocab_size]`; changed where a request asks for it.
            slots: as given to `prepare`.
            sent: what `prepare` returned, on the device.
            masks: what grammars allow; their rows are those of `logits`.
        """
        scored = self.scored(slots)
        original = None
        if scored and (masks or any(self._changed[slots[row]] for row, _ in scored)):
            original = logits.index_select(0, sent["scored_rows"])
        self._penalties.apply(logits, sent)
        self._biases.apply(logits, sent)
        self._bad_words.apply(logits, sent)
        self._min_tokens.apply(logits, sent)
        withhold(logits, masks, self._kernels)
        tokens = self._choose(logits, slots, sent)
        self._penalties.count(tokens, sent)
        self._bad_words.append(tokens, sent)
        if not scored:
            return Sampled(tokens, None)
        rows, num_top = sent["scored_rows"], max(count for _, count in scored)
        chosen, score = tokens.index_select(0, rows), self._kernels.score_tokens
        if original is None:
            return Sampled(tokens, Scores(*score(logits, rows, chosen, num_top)))
        return Sampled(tokens, Scores(*score(original, None, chosen, num_top)))

    def _choose(self, logits: Tensor, slots: Sequence[int], sent: dict[str, Tensor]) -> Tensor:
        if "temperatures" not in sent:
            return self._kernels.greedy(logits)
        batch = sampling_batch(
            sent,
            sent["sampled_positions"],
            all_unfiltered=not self._filtered[list(slots)].any(),
            typical_p=sent.get("typical_p"),
        )
        return self._kernels.sample(logits, batch)
