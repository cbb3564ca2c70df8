"""Grammars for tests that need no tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


def mask_of(tokens: Iterable[int], vocab_size: int) -> bytes:
    """The mask that allows these tokens."""
    return sum(1 << token for token in tokens).to_bytes(4 * -(-vocab_size // 32), "little")


def allowed_by(mask: bytes) -> list[int]:
    """The tokens that a mask allows."""
    bits = int.from_bytes(mask, "little")
    return [token for token in range(8 * len(mask)) if bits >> token & 1]


class Alternating:
    """Odd and even tokens take turns, whichever comes first: what may come depends on the token before."""

    is_finished = False
    error = "odd and even tokens take turns"

    def __init__(self, vocab_size: int, latest: int | None = None) -> None:
        self._vocab_size = vocab_size
        self._latest = latest

    def accept(self, token_id: int) -> bool:
        is_allowed = self._latest is None or (token_id - self._latest) % 2 == 1
        self._latest = token_id
        return is_allowed

    def mask(self) -> bytes:
        latest = self._latest
        return mask_of(
            (token for token in range(self._vocab_size) if latest is None or (token - latest) % 2 == 1),
            self._vocab_size,
        )

    def forced(self) -> list[int]:
        return []

    def copy(self) -> Alternating:
        return Alternating(self._vocab_size, self._latest)


def alternates(tokens: list[int]) -> bool:
    """Whether these are an output of `Alternating`."""
    return all((one - other) % 2 == 1 for one, other in pairwise(tokens))
