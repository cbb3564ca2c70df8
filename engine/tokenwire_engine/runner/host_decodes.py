"""Steady decodes in host memory: rows that stay from step to step are moved on in place.

Laying a batch out anew costs a small model more than a layer does. While the same slots decode, only their
positions and tokens change: every buffer stays where it is, and a step is a few additions and one native
call, which goes from token ids to logits, and on to tokens where all rows are greedy and nothing is withheld.
A step of other rows in between may change anything, so that what is kept is good for the very next step
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.models.batch import CacheView, ForwardBatch
from tokenwire_engine.models.host_decoder import HostDecoder
from tokenwire_engine.runner.decodes import SteadyRows
from tokenwire_engine.runner.executor import Sampling
from tokenwire_engine.runner.launched import Launched
from tokenwire_engine.runner.slots import SlotState
from tokenwire_engine.sampling.masks import withhold
from tokenwire_engine.sampling.mode import SamplingMode
from tokenwire_engine.sampling.sampler import Sampled, sampling_batch
from tokenwire_engine.scheduler.plan import StepPlan, TokenMasks
from tokenwire_kernels import AttentionBatch, Kernels, LayerCache
from tokenwire_kernels.cpu import PreparedStep


class HostDecodeExecutor:
    """The `StepExecutor` of plans that are decode columns and nothing else, of a `HostDecoder`."""

    def __init__(
        self,
        decoder: HostDecoder,
        caches: Sequence[LayerCache],
        kernels: Kernels,
        slots: SlotState,
    ) -> None:
        self._decoder = decoder
        self._caches = caches
        self._kernels = kernels
        self._slots = slots
        self._latest_tokens = slots.latest_tokens.numpy()
        self._rows: _Rows | None = None
        self._next_step = -1
        """The step for which `_rows` are good."""

    def forward(self, plan: StepPlan) -> Sampling | None:
        """See `StepExecutor.forward`."""
        if plan.scheduled:
            return None
        rows = self._rows_of(plan)
        self._move_to(rows, plan.decodes.shift)
        rows.step.run(is_greedy=rows.mode is SamplingMode.GREEDY and not plan.constrained)
        return partial(self._sample, plan.step, rows)

    def _rows_of(self, plan: StepPlan) -> _Rows:
        """Those of the step before, unless something has changed."""
        rows, steady = self._rows, self._slots.steady.of(plan.decodes)
        if rows is None or plan.step != self._next_step or rows.steady is not steady:
            rows = self._rows = self._lay_out(steady)
        elif plan.decodes.growing:
            torch.index_select(self._slots.tables.on_device, 1, rows.device_index, out=rows.block_tables)
        self._next_step = plan.step + 1
        return rows

    def _lay_out(self, steady: SteadyRows) -> _Rows:
        count, device_index = len(steady.slots), torch.from_numpy(steady.index)
        sampler, tables = self._slots.sampler, self._slots.tables
        mode = sampler.mode(steady.index)
        columns = {} if mode is SamplingMode.GREEDY else sampler.columns(steady.index)
        batch = ForwardBatch(
            token_ids=torch.empty(count, dtype=torch.int64),
            positions=torch.empty(count, dtype=torch.int64),
            views=[],
        )
        block_tables = tables.on_device.index_select(1, device_index)
        cache_slots = torch.empty(len(block_tables), count, dtype=torch.int64)
        context_lens = torch.empty(count, dtype=torch.int32)
        query_starts = torch.arange(count + 1, dtype=torch.int32)
        batch.views = [
            CacheView(
                slots_of_group,
                AttentionBatch(
                    block_tables=tables_of_group,
                    query_starts=query_starts,
                    context_lens=context_lens,
                    max_query_len=1,
                    max_context_len=block_tables.shape[2] * tables.block_size,
                    num_decodes=count,
                ),
            )
            for slots_of_group, tables_of_group in zip(cache_slots, block_tables, strict=True)
        ]
        return _Rows(
            steady=steady,
            device_index=device_index,
            token_ids=batch.token_ids.numpy(),
            positions=batch.positions.numpy(),
            next_positions=np.empty(count, dtype=np.int64),
            cache_slots=cache_slots.numpy(),
            context_lens=context_lens.numpy(),
            block_tables=block_tables,
            mode=mode,
            columns={name: torch.from_numpy(column) for name, column in columns.items()},
            step=self._decoder.prepare(batch, self._caches),
        )

    def _move_to(self, rows: _Rows, shift: int) -> None:
        """Make the rows' tokens the latest ones, at so many positions from their bases."""
        index = rows.steady.index
        np.take(self._latest_tokens, index, out=rows.token_ids)
        np.add(rows.steady.bases, shift, out=rows.positions)
        np.add(rows.positions, 1, out=rows.next_positions)
        rows.context_lens[:] = rows.next_positions
        rows.cache_slots[:] = self._slots.tables.cache_slots(index, rows.positions)

    def _sample(self, step: int, rows: _Rows, masks: TokenMasks | None) -> Launched:
        sampled = self._choose(rows, masks)
        self._latest_tokens[rows.steady.index] = sampled.tokens.numpy()
        slots = rows.steady.slots
        return Launched(step, slots, sampled, self._slots.sampler.scored(slots))

    def _choose(self, rows: _Rows, masks: TokenMasks | None) -> Sampled:
        logits = rows.step.logits
        if rows.mode is SamplingMode.SPECIAL:
            sampler, slots = self._slots.sampler, rows.steady.slots
            arrays = sampler.prepare(slots, rows.next_positions)
            wanted = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return sampler.sample(logits, slots, wanted, masks)
        withhold(logits, masks, self._kernels)
        if rows.mode is SamplingMode.GREEDY:
            return Sampled(rows.step.tokens.clone() if masks is None else self._kernels.greedy(logits), None)
        positions, is_unfiltered = torch.from_numpy(rows.next_positions), rows.mode is SamplingMode.UNFILTERED
        batch = sampling_batch(rows.columns, positions, all_unfiltered=is_unfiltered)
        return Sampled(self._kernels.sample(logits, batch), None)


@dataclass(slots=True)
class _Rows:
    """A batch of decodes, one row for each slot."""

    steady: SteadyRows
    """Their slots: as long as this object is the plan's, nobody has joined or left."""
    device_index: Tensor
    """The slots again."""
    token_ids: NDArray[np.int64]
    """Read by the step, as are positions, cache slots, context lengths and block tables."""
    positions: NDArray[np.int64]
    next_positions: NDArray[np.int64]
    """Of the tokens to be sampled."""
    cache_slots: NDArray[np.int64]
    """`[num_groups, num_rows]`."""
    context_lens: NDArray[np.int32]
    block_tables: Tensor
    """int32 `[num_groups, num_rows, max_blocks]`."""
    mode: SamplingMode
    columns: dict[str, Tensor]
    """How each row is sampled; empty where all are greedy."""
    step: PreparedStep
