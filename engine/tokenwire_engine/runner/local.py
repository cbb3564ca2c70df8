"""Runs step plans on one device of this process.

Everything that outlives a step (block tables, sampling parameters, token counts, the token sampled last) is
kept by slot; a plan changes that, and then one of the executors computes its rows, and samples from them once
it may.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.models.host_decoder import HostDecoder
from tokenwire_engine.runner.base import DeviceLostError, ModelInfo
from tokenwire_engine.runner.block_moves import BlockMover
from tokenwire_engine.runner.block_tables import BlockTables
from tokenwire_engine.runner.eager import EagerExecutor
from tokenwire_engine.runner.executor import Sampling, StepExecutor
from tokenwire_engine.runner.forward_graphs import ForwardGraphs, most_pass_tokens
from tokenwire_engine.runner.graphs import Capture, GraphExecutor, NotCapturableError
from tokenwire_engine.runner.host_decodes import HostDecodeExecutor
from tokenwire_engine.runner.launched import Landing, Launched
from tokenwire_engine.runner.pass_executor import PassExecutor
from tokenwire_engine.runner.slots import SlotState
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.runner.warm_up import check_is_finite, warm_up_plans
from tokenwire_engine.sampling.sampler import Sampler
from tokenwire_engine.scheduler.plan import StepPlan, StepResult, TokenMasks
from tokenwire_kernels import Kernels, LayerCache

logger = logging.getLogger(__name__)


class LocalRunner:
    """The `Runner` of a single device."""

    @torch.inference_mode()
    def __init__(
        self,
        info: ModelInfo,
        decoder: Decoder,
        caches: Sequence[LayerCache],
        kernels: Kernels,
        device: torch.device,
        max_running: int,
        capture: Capture | None = None,
    ) -> None:
        """`capture`: how steps are captured; None: every step is computed eagerly."""
        self.info = info
        self._device = device
        self._native = kernels.native
        self._max_running = max_running
        self._mover = BlockMover(caches, info.num_host_blocks, kernels)
        self._slots = SlotState(
            num_slots=max_running,
            tables=BlockTables(
                max_running,
                -(-info.max_model_len // info.block_size),
                info.block_size,
                device,
                len(info.windows),
            ),
            sampler=Sampler(max_running, info.vocab_size, device, kernels),
            latest_tokens=torch.zeros(max_running, dtype=torch.int64, device=device),
        )
        staging = Staging(device, capacity=64 * (info.max_step_tokens + max_running))
        landing = Landing(device)
        self._graphs: GraphExecutor | None = None
        self._executors: list[StepExecutor] = []
        if capture is not None:
            most_tokens = most_pass_tokens(info.max_step_tokens, info.num_parameters // len(caches))
            try:
                passes = ForwardGraphs(decoder, caches, self._slots, most_tokens, capture)
                self._graphs = GraphExecutor(
                    decoder, caches, kernels, self._slots, staging, landing, passes.hidden, capture
                )
                self._executors.append(self._graphs)
                self._executors.append(PassExecutor(passes, self._graphs, self._slots, staging, landing))
            except NotCapturableError as error:
                logger.warning("steps are not captured as CUDA graphs, which makes them slower: %s", error)
        if self._graphs is None and isinstance(decoder, HostDecoder):
            self._executors.append(HostDecodeExecutor(decoder, caches, kernels, self._slots))
        self._executors.append(EagerExecutor(decoder, caches, kernels, self._slots, staging, landing))
        self._launched: deque[Launched] = deque()
        self._sampling: Sampling | None = None
        """Of the step that waits for its masks."""

    @property
    def replays(self) -> bool:
        """Whether steps were captured."""
        return self._graphs is not None

    def warm_up(self) -> None:
        for plan in warm_up_plans(self.info, self._max_running):
            self.launch(plan)
            check_is_finite(self.collect(), self.info.dtype)

    def pin_thread(self) -> None:
        if self._native is not None:
            self._native.pin_caller()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> None:
        with _device_errors():
            self._apply_changes(plan)
            self._sampling = self._forward(plan)
            if not plan.constrained:
                self._sample(None)

    @torch.inference_mode()
    def constrain(self, masks: TokenMasks) -> None:
        with _device_errors():
            self._sample(masks)

    def collect(self) -> StepResult:
        launched = self._launched.popleft()
        with _device_errors():
            return launched.result()

    def close(self) -> None:
        self._launched.clear()
        self._executors.clear()
        del self._graphs, self._mover, self._slots
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _apply_changes(self, plan: StepPlan) -> None:
        tables, sampler = self._slots.tables, self._slots.sampler
        for slot in plan.released:
            sampler.release(slot)
        for admission in plan.admitted:
            tables.clear(admission.slot)
            sampler.admit(
                admission.slot,
                admission.sampling,
                admission.prompt_token_ids,
                admission.output_token_ids,
            )
        if self._graphs is not None and plan.admitted:
            self._graphs.forget()
        tables.append_each(plan.decodes.growing, plan.decodes.new_blocks)
        for row in plan.scheduled:
            if row.new_blocks:
                tables.append(row.slot, row.new_blocks)
        self._mover.move(plan.host_moves)
        self._mover.copy(plan.copies)

    def _forward(self, plan: StepPlan) -> Sampling:
        if not plan.num_rows:
            return lambda _: Launched(plan.step, [])
        for executor in self._executors:
            if (sampling := executor.forward(plan)) is not None:
                return sampling
        raise AssertionError("the eager executor takes every plan")

    def _sample(self, masks: TokenMasks | None) -> None:
        sampling, self._sampling = self._sampling, None
        assert sampling is not None, "a step is sampled once, and constrained where its plan says so"
        self._launched.append(sampling(masks))


@contextmanager
def _device_errors() -> Iterator[None]:
    """CUDA's own errors, unlike a lack of memory, leave the device unusable for the rest of the process."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLostError(f"the device failed: {str(error).splitlines()[0]}") from error
