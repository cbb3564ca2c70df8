"""What has been generated and waits for one peer to take it.

Filled while an engine message is processed, emptied by the peer's writer; a peer that reads slowly finds
several steps merged into one, so what waits is bounded by the text itself and by `max_bytes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tokenwire.status import StatusError
from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire.wakeup import Wakeup


@dataclass(slots=True)
class Finish:
    """The end of a request, or of one of its samples."""

    reason: generation_pb2.FinishReason.ValueType
    usage: generation_pb2.Usage | None = None
    """Set at the request's end, and only then."""
    stop_string: str | None = None
    stop_token_id: int | None = None
    error: StatusError | None = None
    """Set with FINISH_REASON_ERROR, and only then."""
    sample_index: int = 0


class Detail(NamedTuple):
    """What a request asked for beyond text."""

    slot: int
    response: tokenizer_pb2.TokenizerGenerateResponse
    token_ids: list[int]
    """Those behind it, where no text of the slot has them."""


@dataclass(slots=True)
class Deltas:
    """New output of several requests. `slots`, `texts`, `token_counts` are parallel."""

    slots: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    token_counts: list[int] = field(default_factory=list)
    """Tokens behind each text."""
    token_ids: list[int] = field(default_factory=list)
    """Those tokens, text after text."""
    details: list[Detail] = field(default_factory=list)
    finished: list[tuple[int, Finish]] = field(default_factory=list)

    def join(self) -> None:
        """Make one of the texts of each slot that occurs more than once."""
        if len(set(self.slots)) == len(self.slots):
            return
        texts: dict[int, str] = {}
        token_ids: dict[int, list[int]] = {}
        begin = 0
        for slot, text, count in zip(self.slots, self.texts, self.token_counts, strict=True):
            texts[slot] = texts.get(slot, "") + text
            token_ids.setdefault(slot, []).extend(self.token_ids[begin : begin + count])
            begin += count
        self.slots, self.texts = list(texts), list(texts.values())
        self.token_counts = [len(ids) for ids in token_ids.values()]
        self.token_ids = [token_id for ids in token_ids.values() for token_id in ids]


class Outbox:
    """One peer's waiting output. `overflowed` is set when more than `max_bytes` waited; it stays so."""

    def __init__(self, max_bytes: int) -> None:
        self.overflowed = asyncio.Event()
        self._max_bytes = max_bytes
        self._wake = Wakeup()
        self._clear()

    def add_text(self, slot: int, text: str, token_ids: Sequence[int]) -> None:
        """More text of a request, and the tokens behind it."""
        deltas = self._deltas
        deltas.slots.append(slot)
        deltas.texts.append(text)
        deltas.token_counts.append(len(token_ids))
        deltas.token_ids.extend(token_ids)
        self._grow(len(text))

    def add_texts(self, slots: Sequence[int], texts: Sequence[str], token_ids: Sequence[int]) -> None:
        """More text of several requests, each with the one token behind it."""
        deltas = self._deltas
        deltas.slots += slots
        deltas.texts += texts
        deltas.token_counts += [1] * len(slots)
        deltas.token_ids += token_ids
        self._grow(sum(map(len, texts)))

    def add_detail(
        self, slot: int, response: tokenizer_pb2.TokenizerGenerateResponse, token_ids: list[int]
    ) -> None:
        """What a request asked for beyond text, and the tokens behind it, a list to keep."""
        self._deltas.details.append(Detail(slot, response, token_ids))
        self._grow(response.ByteSize())

    def finish(self, slot: int, finish: Finish) -> None:
        """An end; after the request's nothing more comes for the slot until a new request takes it."""
        self._deltas.finished.append((slot, finish))
        self._wake.set()

    @property
    def finished(self) -> list[tuple[int, Finish]]:
        """The ends that wait."""
        return self._deltas.finished

    async def take(self) -> Deltas:
        """Wait until there is something, and take all of it; then a slot has one text."""
        await self._wake.wait()
        deltas = self._deltas
        self._clear()
        deltas.join()
        return deltas

    def _grow(self, size: int) -> None:
        """So much more waits."""
        self._size += size
        if self._size > self._max_bytes:
            self.overflowed.set()
        self._wake.set()

    def _clear(self) -> None:
        self._deltas = Deltas()
        self._size = 0
