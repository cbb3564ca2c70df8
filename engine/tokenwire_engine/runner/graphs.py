"""Steps of decodes as captured graphs: one for each size of batch, replayed with a single call.

A graph computes what it was captured with, at the addresses that it was captured with. So the inputs of its
rows stay in one place: the device moves every row on to its next position and to the token that it sampled
itself (`advance_decodes`), and the host sends only what has changed: the rows, when another request comes or
goes; blocks that were appended; tokens that the device cannot know. Where a batch has fewer rows than its
graph, the others have no slot, and are stored nowhere.

The forward pass and the sampler are captured apart: a batch with a request that asks for more than the
sampling kernel does has its logits from the graph, and is sampled operator by operator. What grammars
withhold is taken from the logits in between. What another pass computed (`forward_graphs.py`) is sampled by
the same graphs: its rows take the places of the decodes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.models.batch import CacheView, ForwardBatch
from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.decodes import Decodes, decodes_of
from tokenwire_engine.runner.executor import Sampling
from tokenwire_engine.runner.launched import Landing, Launched
from tokenwire_engine.runner.row_columns import RowColumns
from tokenwire_engine.runner.slots import SlotState
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.sampling.masks import withhold
from tokenwire_engine.sampling.mode import SamplingMode
from tokenwire_engine.sampling.sampler import COLUMNS, Sampled, sampling_batch
from tokenwire_engine.scheduler.plan import StepPlan, TokenMasks
from tokenwire_kernels import AttentionBatch, DecodeRows, Kernels, LayerCache

HISTORY = 2
"""Steps whose tokens are kept for the host: as many as may be launched and not collected."""
LARGEST = 512
"""Rows of the largest graph. Logits of so many rows are kept, and the more rows, the longer the device takes
over what the host has to launch."""
ROW_COLUMNS: dict[str, type[np.generic]] = {
    "slots": np.int64,
    "positions": np.int64,
    "hidden_rows": np.int64,
} | COLUMNS
"""What the host tells of each row."""
PADDING = {"slots": -1, "top_p": 1, "typical_p": 1}
"""Of a row without a request, where it is not 0: greedy, and nothing filtered."""
NO_ROWS = np.empty(0, dtype=np.int64)
CAPTURED_MODES = (SamplingMode.GREEDY, SamplingMode.UNFILTERED, SamplingMode.FILTERED)

Replay = Callable[[], object]
Capture = Callable[[Callable[[], None]], Replay]
"""Captures work that reads and writes fixed addresses; what it returns does the work again. Raises
`NotCapturableError`."""


class NotCapturableError(RuntimeError):
    """The work cannot be captured here: it can still be done."""


def graph_sizes(max_running: int) -> list[int]:
    """Rows of each graph, ascending: 1, 2, 4, then every 8 up to 64, every 16 up to 256, every 32 beyond, up
    to the most requests that are computed at a time, or `LARGEST`."""
    max_rows = min(max_running, LARGEST)
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_rows, 32)]
    return [size for size in sizes if size < max_rows] + [max_rows]


@dataclass(slots=True, frozen=True)
class SampledRows:
    """Rows of a pass that yield a token each, `[num_rows]`."""

    slots: NDArray[np.int64]
    positions: NDArray[np.int64]
    """Of the tokens to be sampled."""
    hidden_rows: NDArray[np.int64]
    """Which of the pass's hidden states they are sampled from."""


class GraphExecutor:
    """The `StepExecutor` of batches of decodes."""

    def __init__(
        self,
        decoder: Decoder,
        caches: Sequence[LayerCache],
        kernels: Kernels,
        slots: SlotState,
        staging: Staging,
        landing: Landing,
        hidden: Tensor,
        capture: Capture,
    ) -> None:
        """Captures all graphs, the largest first, so that the smaller ones find room in its memory.

        Args:
            hidden: where other passes leave their hidden states.

        Raises:
            NotCapturableError: from `capture`.
        """
        self._decoder = decoder
        self._caches = caches
        self._kernels = kernels
        self._slots = slots
        self._staging = staging
        self._landing = landing
        self._hidden = hidden
        self._sizes = graph_sizes(slots.num_slots)
        num_rows, device = self._sizes[-1], slots.latest_tokens.device
        self._columns = RowColumns(ROW_COLUMNS, num_rows, device)
        self._token_ids = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._context_lens = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self._next_positions = torch.zeros(num_rows, dtype=torch.int64, device=device)
        # In each group of layers.
        self._row_tables = torch.zeros_like(slots.tables.on_device[:, :num_rows])
        self._cache_slots = torch.zeros(len(self._row_tables), num_rows, dtype=torch.int64, device=device)
        self._query_starts = torch.arange(num_rows + 1, dtype=torch.int32, device=device)
        self._logits = torch.zeros(num_rows, len(decoder.embedding.weight), device=device)
        self._steps = torch.zeros(1, dtype=torch.int64, device=device)
        self._history = torch.zeros(HISTORY, num_rows, dtype=torch.int64, device=device)
        self._num_steps = 0
        """As `_steps` will be once all that is queued was computed."""
        self._held: Decodes | None = None
        """The rows on the device, at the positions that they computed last; None: to be sent anew."""
        self._forward: dict[int, Replay] = {}
        self._project: dict[int, Replay] = {}
        self._sample: dict[tuple[int, SamplingMode], Replay] = {}
        self._capture(capture)

    def forget(self) -> None:
        """Some slots have other requests now: what the device holds of them is not theirs."""
        self._held = None

    def forward(self, plan: StepPlan) -> Sampling | None:
        """See `StepExecutor.forward`."""
        decodes = decodes_of(plan, self._slots.steady)
        if decodes is None or len(decodes.slots) > self._sizes[-1]:
            return None
        count = len(decodes.slots)
        size = self._sizes[bisect_left(self._sizes, count)]
        arrays = self._slots.tables.take_changes() | decodes.known_tokens()
        arrays |= self.prepare(decodes.slots, decodes.positions + 1)
        sent = self._staging.send(arrays) if arrays else {}
        self._slots.tables.update(sent)
        if "known_tokens" in sent:
            self._slots.latest_tokens.index_copy_(0, sent["known_slots"], sent["known_tokens"])
        self._hold(decodes)

        self._num_steps += 1
        self._forward[size]()
        return self._sampling(plan.step, decodes.slots, size, sent)

    def holds(self, num_rows: int) -> bool:
        """Whether so many rows can be sampled."""
        return num_rows <= self._sizes[-1]

    def prepare(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What sampling needs on the device, by name: nothing, unless a request asks for more than the
        sampling kernel does.

        Args:
            slots: of each row.
            positions: of the tokens to be sampled.
        """
        sampler = self._slots.sampler
        if sampler.mode(slots) is not SamplingMode.SPECIAL:
            return {}
        return sampler.prepare(slots.tolist(), positions)

    def project(self, step: int, rows: SampledRows, sent: dict[str, Tensor]) -> Sampling:
        """Queue the logits of rows of a pass, and return what samples from them.

        Args:
            sent: what `prepare` returned, on the device.
        """
        self._held = None
        size = self._sizes[bisect_left(self._sizes, len(rows.slots))]
        columns = {"slots": rows.slots, "positions": rows.positions - 1, "hidden_rows": rows.hidden_rows}
        self._columns.write(columns | self._slots.sampler.columns(rows.slots), PADDING)
        self._num_steps += 1
        self._project[size]()
        return self._sampling(step, rows.slots, size, sent)

    def _sampling(self, step: int, slots: NDArray[np.int64], size: int, sent: dict[str, Tensor]) -> Sampling:
        mode = self._slots.sampler.mode(slots)
        if mode is SamplingMode.SPECIAL:
            return partial(self._sample_specially, step, slots.tolist(), sent)
        return partial(self._replay_sampling, step, slots.tolist(), self._sample[size, mode])

    def _sample_specially(
        self, step: int, slots: list[int], sent: dict[str, Tensor], masks: TokenMasks | None
    ) -> Launched:
        sampler = self._slots.sampler
        sampled = sampler.sample(self._logits[: len(slots)], slots, sent, masks)
        self._record(sampled.tokens)
        return self._landing.send(Launched(step, slots, sampled, sampler.scored(slots)))

    def _replay_sampling(
        self, step: int, slots: list[int], replay: Replay, masks: TokenMasks | None
    ) -> Launched:
        withhold(self._logits, masks, self._kernels)
        replay()
        sampled = Sampled(self._history[self._num_steps % HISTORY, : len(slots)], None)
        return self._landing.send(Launched(step, slots, sampled))

    def _hold(self, decodes: Decodes) -> None:
        """Make the device's rows those of the batch, one position before what is to be computed."""
        if self._held is None or not decodes.follow(self._held):
            rows = {"slots": decodes.slots, "positions": decodes.positions - 1, "hidden_rows": NO_ROWS}
            self._columns.write(rows | self._slots.sampler.columns(decodes.slots), PADDING)
        self._held = decodes

    # What is captured.

    def _capture(self, capture: Capture) -> None:
        self._columns.write({name: np.empty(0, dtype) for name, dtype in ROW_COLUMNS.items()}, PADDING)
        for size in reversed(self._sizes):
            self._forward[size] = capture(lambda size=size: self._compute(size))  # type: ignore[misc]
            self._project[size] = capture(lambda size=size: self._compute_logits(size))  # type: ignore[misc]
            for mode in CAPTURED_MODES:
                self._sample[size, mode] = capture(
                    lambda size=size, mode=mode: self._record(self._choose(size, mode))  # type: ignore[misc]
                )
        self._steps.zero_()

    def _compute(self, size: int) -> None:
        """Logits of the first `size` rows' next tokens."""
        rows = self._rows(size)
        self._kernels.advance_decodes(rows, self._slots.latest_tokens)
        views = [self._view(rows, group) for group in range(len(self._row_tables))]
        batch = ForwardBatch(rows.token_ids, rows.positions, views)
        self._decoder.logits(self._decoder.forward(batch, self._caches), out=self._logits[:size])

    def _compute_logits(self, size: int) -> None:
        """Those of the hidden states that the first `size` rows name."""
        columns = self._columns.on_device
        self._steps.add_(1)
        torch.add(columns["positions"][:size], 1, out=self._next_positions[:size])
        hidden = self._hidden.index_select(0, columns["hidden_rows"][:size])
        self._decoder.logits(hidden, out=self._logits[:size])

    def _view(self, rows: DecodeRows, group: int) -> CacheView:
        size = len(rows.slots)
        cache_slots, tables = self._cache_slots[group, :size], self._row_tables[group, :size]
        source = self._slots.tables
        self._kernels.gather_block_tables(
            rows, source.on_device[group], tables, cache_slots, source.block_size
        )
        attention = AttentionBatch(
            block_tables=tables,
            query_starts=self._query_starts[: size + 1],
            context_lens=rows.context_lens,
            max_query_len=1,
            max_context_len=len(self._decoder.rotary.cos),
            num_decodes=size,
        )
        return CacheView(cache_slots, attention)

    def _choose(self, size: int, mode: SamplingMode) -> Tensor:
        if mode is SamplingMode.GREEDY:
            return self._kernels.greedy(self._logits[:size])
        columns = {name: column[:size] for name, column in self._columns.on_device.items()}
        is_unfiltered = mode is SamplingMode.UNFILTERED
        batch = sampling_batch(columns, self._next_positions[:size], all_unfiltered=is_unfiltered)
        return self._kernels.sample(self._logits[:size], batch)

    def _record(self, tokens: Tensor) -> None:
        rows = self._rows(len(tokens))
        self._kernels.record_tokens(tokens, rows, self._slots.latest_tokens, self._history)

    def _rows(self, size: int) -> DecodeRows:
        return DecodeRows(
            slots=self._columns.on_device["slots"][:size],
            positions=self._columns.on_device["positions"][:size],
            token_ids=self._token_ids[:size],
            context_lens=self._context_lens[:size],
            next_positions=self._next_positions[:size],
            step=self._steps,
        )
