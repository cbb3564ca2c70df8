"""Steady decodes in host memory: rows that stay from step to step are moved on in place.

Laying a batch out anew costs a small model more than a layer does. While the same slots decode, only their
positions and tokens change; everything else is made when they become others, and kept. A step of other rows
in between may change anything, so that what is kept is good for the very next step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.models.batch import CacheView, ForwardBatch
from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.launched import Launched
from tokenwire_engine.runner.slots import SlotState
from tokenwire_engine.sampling.mode import SamplingMode
from tokenwire_engine.sampling.sampler import Sampled, sampling_batch
from tokenwire_engine.scheduler.plan import DecodeColumns, StepPlan
from tokenwire_kernels import AttentionBatch, Kernels, LayerCache


class HostDecodeExecutor:
    """The `StepExecutor` of plans that are decode columns and nothing else, where the device is the host."""

    def __init__(
        self,
        decoder: Decoder,
        caches: Sequence[LayerCache],
        kernels: Kernels,
        slots: SlotState,
        block_size: int,
    ) -> None:
        self._decoder = decoder
        self._caches = caches
        self._kernels = kernels
        self._slots = slots
        self._block_size = block_size
        self._latest_tokens = slots.latest_tokens.numpy()
        self._rows: _Rows | None = None
        self._next_step = -1
        """The step for which `_rows` are good."""

    def execute(self, plan: StepPlan) -> Launched | None:
        """See `StepExecutor.execute`."""
        if plan.scheduled:
            return None
        rows = self._rows_of(plan)
        rows.move_by(plan.decodes.shift)
        np.take(self._latest_tokens, rows.index, out=rows.token_ids)
        hidden = self._decoder.forward(self._batch(rows), self._caches)
        sampled = self._sample(self._decoder.logits(hidden), rows)
        self._latest_tokens[rows.index] = sampled.tokens.numpy()
        return Launched(plan.step, rows.slots, sampled, self._slots.sampler.scored(rows.slots))

    def _rows_of(self, plan: StepPlan) -> _Rows:
        """Those of the step before, unless something has changed."""
        rows, decodes = self._rows, plan.decodes
        if rows is None or plan.step != self._next_step or decodes.slots is not rows.slots:
            rows = self._rows = self._lay_out(decodes)
        elif decodes.growing:
            rows.block_tables = self._slots.tables.on_device.index_select(1, rows.device_index)
        self._next_step = plan.step + 1
        return rows

    def _lay_out(self, decodes: DecodeColumns) -> _Rows:
        index = np.array(decodes.slots, dtype=np.int64)
        device_index = torch.from_numpy(index)
        sampler = self._slots.sampler
        mode = sampler.mode(index)
        columns = {} if mode is SamplingMode.GREEDY else sampler.columns(index)
        return _Rows(
            slots=decodes.slots,
            index=index,
            device_index=device_index,
            bases=np.array(decodes.bases, dtype=np.int64),
            token_ids=np.empty(len(index), dtype=np.int64),
            positions=np.empty(len(index), dtype=np.int64),
            next_positions=np.empty(len(index), dtype=np.int64),
            context_lens=np.empty(len(index), dtype=np.int32),
            query_starts=torch.arange(len(index) + 1, dtype=torch.int32),
            block_tables=self._slots.tables.on_device.index_select(1, device_index),
            mode=mode,
            columns={name: torch.from_numpy(column) for name, column in columns.items()},
        )

    def _batch(self, rows: _Rows) -> ForwardBatch:
        slots = self._slots.tables.cache_slots(rows.index, rows.positions, self._block_size)
        context_lens, longest = torch.from_numpy(rows.context_lens), int(rows.context_lens.max())
        tables = rows.block_tables[:, :, : -(-longest // self._block_size)]
        views = [
            CacheView(
                cache_slots,
                AttentionBatch(
                    block_tables=block_tables,
                    query_starts=rows.query_starts,
                    context_lens=context_lens,
                    max_query_len=1,
                    max_context_len=longest,
                    num_decodes=len(rows.index),
                ),
            )
            for cache_slots, block_tables in zip(torch.from_numpy(slots), tables, strict=True)
        ]
        return ForwardBatch(torch.from_numpy(rows.token_ids), torch.from_numpy(rows.positions), views)

    def _sample(self, logits: Tensor, rows: _Rows) -> Sampled:
        if rows.mode is SamplingMode.GREEDY:
            return Sampled(self._kernels.greedy(logits), None)
        if rows.mode is SamplingMode.SPECIAL:
            sampler = self._slots.sampler
            arrays = sampler.prepare(rows.slots, rows.next_positions)
            wanted = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return sampler.sample(logits, rows.slots, wanted)
        positions, is_unfiltered = torch.from_numpy(rows.next_positions), rows.mode is SamplingMode.UNFILTERED
        batch = sampling_batch(rows.columns, positions, all_unfiltered=is_unfiltered)
        return Sampled(self._kernels.sample(logits, batch), None)


@dataclass(slots=True)
class _Rows:
    """A batch of decodes, one row for each slot."""

    slots: Sequence[int]
    """As the plan has them: the same object tells that they are the same."""
    index: NDArray[np.int64]
    """The slots again, as is `device_index`."""
    device_index: Tensor
    bases: NDArray[np.int64]
    """Positions, less the plan's shift."""
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    next_positions: NDArray[np.int64]
    """Of the tokens to be sampled."""
    context_lens: NDArray[np.int32]
    query_starts: Tensor
    block_tables: Tensor
    """int32 `[num_groups, num_rows, max_blocks]`."""
    mode: SamplingMode
    columns: dict[str, Tensor]
    """How each row is sampled; empty where all are greedy."""

    def move_by(self, shift: int) -> None:
        """Make the rows' tokens those at so many positions from their bases."""
        np.add(self.bases, shift, out=self.positions)
        np.add(self.positions, 1, out=self.next_positions)
        self.context_lens[:] = self.next_positions
