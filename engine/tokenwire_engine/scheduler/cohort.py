"""Requests that decode and come to the ends of their blocks together: since each goes on by a token a step,
they do so for as long as they decode."""

from __future__ import annotations

from collections.abc import Collection

from tokenwire_engine.scheduler.request import Request


class Cohort:
    """Some of the requests of the batch of decodes, as columns by arrival number, all in the same order."""

    def __init__(self, num_groups: int) -> None:
        """`num_groups`: of layers, each with a table of blocks."""
        self._requests: dict[int, Request] = {}
        self._slots: dict[int, int] = {}
        self._blocks: list[dict[int, list[int]]] = [{} for _ in range(num_groups)]
        """The blocks in each one's tables, by group."""

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def requests(self) -> Collection[Request]:
        return self._requests.values()

    @property
    def slots(self) -> Collection[int]:
        return self._slots.values()

    @property
    def blocks(self) -> list[Collection[list[int]]]:
        """For each group of layers, the blocks in each request's table, to which others may be appended."""
        return [blocks.values() for blocks in self._blocks]

    def add(self, request: Request) -> None:
        """A request comes to the ends of its blocks when these do."""
        arrival = request.arrival
        self._requests[arrival], self._slots[arrival] = request, request.slot
        for blocks, table in zip(self._blocks, request.tables, strict=True):
            blocks[arrival] = table.blocks

    def remove(self, request: Request) -> None:
        """A request decodes no more."""
        del self._requests[request.arrival], self._slots[request.arrival]
        for blocks in self._blocks:
            del blocks[request.arrival]
