"""The requests that run: their slots, their blocks, and the rows that they have in the next step.

A request has one token to go (it decodes) or more (of its prompt, or of what it computes again). Those that
decode without anything to wait for are in the `DecodeBatch`; the others are looked at in every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenwire_engine.scheduler.block_manager import BlockManager, Copy
from tokenwire_engine.scheduler.decode_batch import DecodeBatch
from tokenwire_engine.scheduler.decode_rows import DecodeRows
from tokenwire_engine.scheduler.in_flight import StepInFlight
from tokenwire_engine.scheduler.request import NO_ROW, NO_SLOT, Request
from tokenwire_engine.scheduler.step_budget import StepBudget


class Running:
    """Up to so many requests."""

    def __init__(self, max_running: int, blocks: BlockManager, budget: StepBudget) -> None:
        self._blocks = blocks
        self._budget = budget
        self._free_slots = list(range(max_running - 1, -1, -1))
        self._requests: dict[int, Request] = {}
        """By arrival number, those that were admitted last at the end."""
        self._decoding = DecodeBatch(blocks.block_size, blocks.num_groups)
        self._others: dict[int, Request] = {}
        """Those that are not in the batch."""
        self._released: list[int] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def __reversed__(self) -> Iterator[Request]:
        return reversed(list(self._requests.values()))

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    def enter(self, request: Request) -> list[Copy]:
        """Give a request a slot, and what is found of its tokens; what is to be copied for it."""
        self._requests[request.arrival] = self._others[request.arrival] = request
        request.slot = self._free_slots.pop()
        return self._blocks.begin(request)

    def leave(self, request: Request) -> None:
        """Take back a request's slot and blocks."""
        self.stop_decoding(request)
        del self._requests[request.arrival], self._others[request.arrival]
        self._blocks.end(request)
        self._free_slots.append(request.slot)
        self._released.append(request.slot)
        request.slot = NO_SLOT

    def take_released(self) -> list[int]:
        """Slots whose requests have left since the last call."""
        released, self._released = self._released, []
        return released

    def release_again(self, slots: Sequence[int]) -> None:
        """The step that was to release these was lost."""
        self._released += set(slots).difference(self._released)

    def stop_decoding(self, request: Request) -> None:
        """Bring a request up to date: whatever comes next, it is not in the batch."""
        if request.decode_row != NO_ROW:
            self._decoding.remove(request)
            self._others[request.arrival] = request

    def num_pending(self, request: Request) -> int:
        """Tokens behind a request's known ones that launched steps sample for it."""
        if request.decode_row == NO_ROW:
            return request.num_pending
        return self._decoding.position(request) + 1 - request.num_tokens

    def slide(self) -> None:
        """Give back the blocks that the next step does not see."""
        for place in self._blocks.places_to_slide:
            for request in self._decoding.at_place(place).requests:
                self._blocks.slide(request, self._decoding.position(request))
        if self._blocks.places_to_slide:
            for request in self._others.values():
                self._blocks.slide(request, request.num_computed)

    def split(
        self, rows: DecodeRows, token_ids: Sequence[int]
    ) -> tuple[DecodeRows, Sequence[int], list[tuple[Request, int]]]:
        """See `DecodeBatch.split`."""
        return self._decoding.split(rows, token_ids)

    def num_prompts(self) -> int:
        """Requests that have yet to compute more than their latest token."""
        return sum(request.num_to_go > 1 for request in self._others.values())

    def growth(self, num_waiting: int) -> int:
        """Blocks that the next step takes, while so many requests have yet to get their first token."""
        num_decodes, prefilling = len(self._decoding), []
        growth = len(self._decoding.at_place(0)) * self._blocks.num_groups
        for request in self._others.values():
            if request.num_to_go > 1:
                prefilling.append(request)
            elif not request.must_wait:
                num_decodes += 1
                growth += self._blocks.num_lacking(request, request.num_computed + 1)
        budget = self._budget.prompt_tokens(num_decodes, num_waiting)
        for request in prefilling:
            count = min(budget, request.num_to_go)
            budget -= count
            growth += self._blocks.num_lacking(request, request.num_computed + count)
        return growth

    def decode(self, step: StepInFlight) -> list[Request]:
        """Give every request that decodes its row; those with more tokens to go."""
        self._decode_steadily(step)
        prefilling = []
        for request in tuple(self._others.values()):
            if request.num_to_go > 1:
                prefilling.append(request)
            elif not request.must_wait:
                self.compute(request, 1, step)
        step.num_decodes = step.num_requests
        return prefilling

    def compute(
        self, request: Request, budget: int, step: StepInFlight, new_blocks: Sequence[list[int]] = ()
    ) -> int:
        """Give a request that is not in the batch a row of at most `budget` tokens; how many they are.
        `new_blocks`: those in its tables that the runner does not know of."""
        start = request.num_computed
        num_tokens = request.num_tokens + request.num_pending
        end = min(start + budget, num_tokens)
        if end > request.capacity:
            added = self._blocks.grow(request, end)
            new_blocks = list(map(list.__add__, new_blocks, added)) if new_blocks else added
        step.add(request, start, end, end == num_tokens, new_blocks)
        if end // self._blocks.block_size > start // self._blocks.block_size:
            step.filled.append((request, end))
        request.num_computed = end
        if end == num_tokens:
            request.num_pending += 1
            if not request.must_wait:
                del self._others[request.arrival]
                self._decoding.add(request)
        return end - start

    def _decode_steadily(self, step: StepInFlight) -> None:
        """Give the rows of the batch their next tokens, and those that begin a block with it another one."""
        batch, columns, last_place = self._decoding, step.plan.decodes, self._blocks.block_size - 1
        growing = batch.at_place(0)
        columns.growing, columns.new_blocks = tuple(growing.slots), self._blocks.append(growing)
        step.decodes_filled = tuple(batch.at_place(last_place).requests)
        rows = step.decoding = batch.advance()
        columns.slots, columns.bases, columns.shift = rows.columns.slots, rows.columns.bases, batch.shift - 1
        for request in tuple(batch.at_limit()):
            self.stop_decoding(request)
