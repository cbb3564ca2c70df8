"""Steady decodes in host memory: rows that stay from step to step are moved on in place.

Laying a batch out anew costs a small model more than a layer does. While the same slots decode, only their
positions and tokens change: every buffer stays where it is, and a step is one native call, which goes from
the slots' latest tokens to logits, and on to tokens where all rows are greedy and nothing is withheld.
A step of other rows in between may change anything, so that what is kept is good for the very next step
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tokenwire_engine.models.host_decoder import HostDecoder
from tokenwire_engine.runner.decodes import SteadyRows
from tokenwire_engine.runner.executor import Sampling
from tokenwire_engine.runner.launched import Launched
from tokenwire_engine.runner.slots import SlotState
from tokenwire_engine.sampling.masks import withhold
from tokenwire_engine.sampling.mode import SamplingMode
from tokenwire_engine.sampling.sampler import Sampled, sampling_batch
from tokenwire_engine.scheduler.plan import StepPlan, TokenMasks
from tokenwire_kernels import Kernels, LayerCache
from tokenwire_kernels.cpu import DecodingRows, PreparedDecodes


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
        is_greedy = rows.mode is SamplingMode.GREEDY and not plan.constrained
        rows.steps.run(plan.decodes.shift, is_greedy=is_greedy)
        return partial(self._sample, plan.step, rows)

    def _rows_of(self, plan: StepPlan) -> _Rows:
        """Those of the step before, unless something has changed."""
        rows, steady = self._rows, self._slots.steady.of(plan.decodes)
        if rows is None or plan.step != self._next_step or rows.steady is not steady:
            rows = self._rows = self._lay_out(steady)
        elif plan.decodes.growing:
            decodes = rows.decodes
            torch.index_select(self._slots.tables.on_device, 1, decodes.slots, out=decodes.block_tables)
        self._next_step = plan.step + 1
        return rows

    def _lay_out(self, steady: SteadyRows) -> _Rows:
        sampler, slots = self._slots.sampler, torch.from_numpy(steady.index)
        mode = sampler.mode(steady.index)
        columns = {} if mode is SamplingMode.GREEDY else sampler.columns(steady.index)
        decodes = DecodingRows(
            slots=slots,
            bases=torch.from_numpy(steady.bases),
            latest_tokens=self._slots.latest_tokens,
            block_tables=self._slots.tables.on_device.index_select(1, slots),
        )
        return _Rows(
            steady=steady,
            decodes=decodes,
            mode=mode,
            columns={name: torch.from_numpy(column) for name, column in columns.items()},
            steps=self._decoder.prepare(decodes, self._caches),
        )

    def _sample(self, step: int, rows: _Rows, masks: TokenMasks | None) -> Launched:
        slots = rows.steady.slots
        if rows.mode is SamplingMode.GREEDY and masks is None:
            sampled = Sampled(rows.steps.tokens.clone(), None)
        else:
            sampled = self._choose(rows, masks)
            self._latest_tokens[rows.steady.index] = sampled.tokens.numpy()
        return Launched(step, slots, sampled, self._slots.sampler.scored(slots))

    def _choose(self, rows: _Rows, masks: TokenMasks | None) -> Sampled:
        logits, positions = rows.steps.logits, rows.steps.next_positions
        if rows.mode is SamplingMode.SPECIAL:
            sampler, slots = self._slots.sampler, rows.steady.slots
            arrays = sampler.prepare(slots, positions.numpy())
            wanted = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return sampler.sample(logits, slots, wanted, masks)
        withhold(logits, masks, self._kernels)
        if rows.mode is SamplingMode.GREEDY:
            return Sampled(self._kernels.greedy(logits), None)
        batch = sampling_batch(rows.columns, positions, all_unfiltered=rows.mode is SamplingMode.UNFILTERED)
        return Sampled(self._kernels.sample(logits, batch), None)


@dataclass(slots=True)
class _Rows:
    """A batch of decodes, one row for each slot."""

    steady: SteadyRows
    """Their slots: as long as this object is the plan's, nobody has joined or left."""
    decodes: DecodingRows
    mode: SamplingMode
    columns: dict[str, Tensor]
    """How each row is sampled; empty where all are greedy."""
    steps: PreparedDecodes
