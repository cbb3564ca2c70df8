"""Bad words of several tokens: the last token is withheld while the output ends with the ones before it.

The end of each output is kept on the device, where sampled tokens are appended to it: the host need not
know them. Only the output counts, not the prompt: what a request forbids is that a sequence be produced.
(Words of one token are withheld always; see `bias`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.sampling.params import MAX_BAD_WORD_TOKENS, SamplingParams
from tokenwire_engine.sampling.rows import Rows, grown, on_device

WINDOW = MAX_BAD_WORD_TOKENS - 1
"""Tokens of output that a word's beginning can match."""
ANY = -1
"""In a word's beginning: whatever token was there. Where no token was is `NONE`."""
NONE = -2


class BadWords:
    """The words of the slots that have any, and the ends of their outputs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recent = torch.empty((0, WINDOW), dtype=torch.int64, device=device)
        """The latest tokens of each row's output, the newest last."""
        self._rows = Rows()
        self._words: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        """By slot: beginnings `[num_words, WINDOW]`, aligned at the end, and last tokens `[num_words]`."""

    def admit(self, slot: int, params: SamplingParams, output: Sequence[int]) -> None:
        """Note a request's words, if it has any. Whatever the slot held before is forgotten."""
        self.release(slot)
        words = [word for word in params.bad_words if len(word) > 1]
        if not words:
            return
        beginnings = np.full((len(words), WINDOW), ANY, dtype=np.int64)
        for index, word in enumerate(words):
            beginnings[index, WINDOW + 1 - len(word) :] = word[:-1]
        self._words[slot] = beginnings, np.array([word[-1] for word in words], dtype=np.int64)
        recent = np.full(WINDOW, NONE, dtype=np.int64)
        if latest := output[-WINDOW:]:
            recent[-len(latest) :] = latest
        row = self._rows.take(slot)
        self._recent = grown(self._recent, self._rows.capacity)
        self._recent[row].copy_(on_device(recent, self._device))

    def release(self, slot: int) -> None:
        """Forget a slot."""
        self._rows.release(slot)
        self._words.pop(slot, None)

    def prepare(self, slots: Sequence[int]) -> dict[str, NDArray[Any]]:
        """What `apply` and `append` need on the device for these slots; empty when none has words."""
        if not self._rows:
            return {}
        having = [(index, slot) for index, slot in enumerate(slots) if slot in self._rows]
        if not having:
            return {}
        words = [self._words[slot] for _, slot in having]
        counts = [len(last) for _, last in words]
        indices = np.array([index for index, _ in having], dtype=np.int64)
        rows = np.array([self._rows[slot] for _, slot in having], dtype=np.int64)
        return {
            "worded": indices,
            "worded_rows": rows,
            "word_of": np.repeat(indices, counts),
            "word_rows": np.repeat(rows, counts),
            "word_beginnings": np.concatenate([beginnings for beginnings, _ in words]),
            "word_ends": np.concatenate([last for _, last in words]),
        }

    def apply(self, logits: Tensor, sent: dict[str, Tensor]) -> None:
        """Withhold tokens in logits `[num_rows, vocab_size]`, in place."""
        if "worded" not in sent:
            return
        beginnings = sent["word_beginnings"]
        recent = self._recent.index_select(0, sent["word_rows"])
        matches = ((beginnings == recent) | (beginnings == ANY)).all(dim=1)
        withheld = torch.zeros(len(matches), dtype=logits.dtype, device=logits.device)
        withheld.masked_fill_(matches, -torch.inf)
        logits.index_put_((sent["word_of"], sent["word_ends"]), withheld, accumulate=True)

    def append(self, tokens: Tensor, sent: dict[str, Tensor]) -> None:
        """Take the tokens `[num_rows]` that were just sampled to the ends of the outputs."""
        if "worded" in sent:
            rows = sent["worded_rows"]
            kept = self._recent.index_select(0, rows)[:, 1:]
            sampled = tokens.index_select(0, sent["worded"])[:, None]
            self._recent.index_copy_(0, rows, torch.cat([kept, sampled], dim=1))
