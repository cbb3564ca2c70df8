"""Runs step plans on one device of this process.

Everything that outlives a step (block tables, sampling parameters, token counts) is kept by slot; a step
sends one buffer to the device, and gets one row of tokens back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_engine.models.batch import LayerCache
from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.base import DeviceLostError, ModelInfo
from tokenwire_engine.runner.batch import StepBatch, assemble
from tokenwire_engine.runner.block_tables import BlockTables
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.runner.warm_up import warm_up_plans
from tokenwire_engine.sampling.sampler import Sampler
from tokenwire_engine.scheduler.plan import StepPlan, StepResult
from tokenwire_kernels import Kernels


@dataclass(slots=True)
class Launched:
    """A step whose tokens are on their way to the host."""

    step: int
    slots: list[int]
    tokens: Tensor | None
    """int64 `[len(slots)]` in host memory, filled once `arrived`."""
    arrived: torch.cuda.Event | None
    """None: on a CPU, where launching computes."""


class LocalRunner:
    """The `Runner` of a single device."""

    def __init__(
        self,
        info: ModelInfo,
        decoder: Decoder,
        caches: Sequence[LayerCache],
        kernels: Kernels,
        device: torch.device,
        max_running: int,
    ) -> None:
        self.info = info
        self._decoder = decoder
        self._caches = caches
        self._device = device
        max_blocks = -(-info.max_model_len // info.block_size)
        self._tables = BlockTables(max_running, max_blocks, device)
        self._sampler = Sampler(max_running, info.vocab_size, device, kernels)
        self._staging = Staging(device, capacity=64 * (info.max_step_tokens + max_running))
        self._launched: deque[Launched] = deque()
        self._max_running = max_running

    def warm_up(self) -> None:
        for plan in warm_up_plans(self.info, self._max_running):
            self.launch(plan)
            self.collect()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> None:
        with _device_errors():
            self._launch(plan)

    def collect(self) -> StepResult:
        launched = self._launched.popleft()
        if launched.arrived is not None:
            with _device_errors():
                launched.arrived.synchronize()
        tokens = [] if launched.tokens is None else launched.tokens.tolist()
        return StepResult(launched.step, launched.slots, tokens)

    def close(self) -> None:
        self._launched.clear()
        del self._decoder, self._caches, self._tables, self._sampler, self._staging
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _launch(self, plan: StepPlan) -> None:
        self._apply_changes(plan)
        if not plan.scheduled:
            self._launched.append(Launched(plan.step, [], None, None))
            return
        batch = assemble(plan.scheduled, self._tables, self.info.block_size)
        sent = self._staging.send(
            batch.arrays
            | self._tables.take_changes()
            | self._sampler.prepare(batch.sampled_slots, batch.sampled_positions)
        )
        self._tables.update(sent)
        hidden = self._decoder.forward(
            batch.on_device(sent, self._tables, self.info.block_size), self._caches
        )
        tokens = self._sample(hidden, batch, sent)
        self._launched.append(self._fetch(plan.step, batch.sampled_slots, tokens))

    def _apply_changes(self, plan: StepPlan) -> None:
        for slot in plan.released:
            self._sampler.release(slot)
        for admission in plan.admitted:
            self._tables.clear(admission.slot)
            self._sampler.admit(
                admission.slot,
                admission.sampling,
                admission.prompt_token_ids,
                admission.output_token_ids,
            )
        for row in plan.scheduled:
            if row.new_blocks:
                self._tables.append(row.slot, row.new_blocks)

    def _sample(self, hidden: Tensor, batch: StepBatch, sent: dict[str, Tensor]) -> Tensor | None:
        if not batch.sampled_slots:
            return None
        if not batch.samples_all:
            hidden = hidden.index_select(0, sent["sampled_tokens"])
        return self._sampler.sample(self._decoder.logits(hidden), batch.sampled_slots, sent)

    def _fetch(self, step: int, slots: list[int], tokens: Tensor | None) -> Launched:
        """Start copying the sampled tokens to the host."""
        if tokens is None or self._device.type == "cpu":
            return Launched(step, slots, tokens, None)
        landing = torch.empty(len(slots), dtype=tokens.dtype, pin_memory=True)
        landing.copy_(tokens, non_blocking=True)
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # waiting sleeps
        arrived.record()
        return Launched(step, slots, landing, arrived)


@contextmanager
def _device_errors() -> Iterator[None]:
    """CUDA's own errors, unlike a lack of memory, leave the device unusable for the rest of the process."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLostError(f"the device failed: {str(error).splitlines()[0]}") from error
