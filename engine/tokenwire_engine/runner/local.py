"""Runs step plans on one device of this process.

Everything that outlives a step (block tables, sampling parameters, token counts, the token sampled last) is
kept by slot; a step sends one buffer to the device, and gets one row of tokens back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.base import DeviceLostError, ModelInfo
from tokenwire_engine.runner.batch import StepBatch, assemble
from tokenwire_engine.runner.block_moves import BlockMover
from tokenwire_engine.runner.block_tables import BlockTables
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.runner.warm_up import warm_up_plans
from tokenwire_engine.sampling.sampler import Sampled, Sampler
from tokenwire_engine.sampling.scores import Scores, joined, score
from tokenwire_engine.scheduler.plan import ScoredPrompt, StepPlan, StepResult
from tokenwire_kernels import Kernels, LayerCache


@dataclass(slots=True)
class Launched:
    """A step whose tokens are on their way to the host."""

    step: int
    slots: list[int]
    tokens: Tensor | None
    """int64 `[len(slots)]` in host memory, filled once `arrived`."""
    scores: Scores | None
    """The same of those tokens whose request asks for log-probabilities."""
    scored: list[tuple[int, int]]
    """Index and number of alternatives of each of them."""
    prompt_scores: Scores | None
    """The same of prompt tokens."""
    prompt_scored: list[ScoredPrompt]
    """Whose they are."""
    arrived: torch.cuda.Event | None
    """None: on a CPU, where launching computes."""

    def result(self) -> StepResult:
        """What the step yielded, once it has arrived."""
        result = StepResult(self.step, self.slots, [] if self.tokens is None else self.tokens.tolist())
        if self.scores is not None:
            for row, (index, num_top) in enumerate(self.scored):
                result.logprobs[index] = self.scores.columns(row, 1, num_top)
        if self.prompt_scores is not None:
            start = 0
            for prompt in self.prompt_scored:
                count = len(prompt.token_ids)
                result.prompt_logprobs.append(self.prompt_scores.columns(start, count, prompt.num_top))
                start += count
        return result


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
        self._mover = BlockMover(caches, info.num_host_blocks)
        self._tables = BlockTables(max_running, max_blocks, device)
        self._sampler = Sampler(max_running, info.vocab_size, device, kernels)
        self._latest_tokens = torch.zeros(max_running, dtype=torch.int64, device=device)
        """By slot: the token sampled last."""
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
        return launched.result()

    def close(self) -> None:
        self._launched.clear()
        del self._decoder, self._caches, self._mover, self._tables
        del self._sampler, self._latest_tokens, self._staging
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _launch(self, plan: StepPlan) -> None:
        self._apply_changes(plan)
        if not plan.scheduled:
            self._launched.append(Launched(plan.step, [], None, None, [], None, [], None))
            return
        batch = assemble(plan.scheduled, self._tables, self.info.block_size)
        sent = self._staging.send(
            batch.arrays
            | self._tables.take_changes()
            | self._sampler.prepare(batch.sampled_slots, batch.sampled_positions)
        )
        self._tables.update(sent)
        if "pending_tokens" in sent:
            sampled_before = self._latest_tokens.index_select(0, sent["pending_slots"])
            sent["token_ids"].index_copy_(0, sent["pending_tokens"], sampled_before)
        hidden = self._decoder.forward(
            batch.on_device(sent, self._tables, self.info.block_size), self._caches
        )
        prompt_scores = self._score_prompts(hidden, batch, sent)
        sampled = self._sample(hidden, batch, sent)
        self._launched.append(self._fetch(plan.step, batch, sampled, prompt_scores))

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
                admission.grammar,
            )
        for row in plan.scheduled:
            if row.new_blocks:
                self._tables.append(row.slot, row.new_blocks)
        self._mover.move(plan.host_moves)
        self._mover.copy(plan.copies)

    def _sample(self, hidden: Tensor, batch: StepBatch, sent: dict[str, Tensor]) -> Sampled | None:
        if not batch.sampled_slots:
            return None
        if not batch.samples_all:
            hidden = hidden.index_select(0, sent["sampled_tokens"])
        sampled = self._sampler.sample(self._decoder.logits(hidden), batch.sampled_slots, sent)
        self._latest_tokens.index_copy_(0, sent["sampled_slots"], sampled.tokens)
        return sampled

    def _score_prompts(self, hidden: Tensor, batch: StepBatch, sent: dict[str, Tensor]) -> Scores | None:
        """Log-probabilities of prompt tokens, so many at a time as rows can be sampled: their logits need
        no more memory than the sampler's."""
        if not batch.scored:
            return None
        num_top = max(prompt.num_top for prompt in batch.scored)
        rows = self._max_running
        pieces = zip(
            torch.split(sent["scoring_tokens"], rows),
            torch.split(sent["scored_token_ids"], rows),
            strict=True,
        )
        return joined(
            [
                score(self._decoder.logits(hidden.index_select(0, places)), targets, num_top)
                for places, targets in pieces
            ]
        )

    def _fetch(
        self, step: int, batch: StepBatch, sampled: Sampled | None, prompt_scores: Scores | None
    ) -> Launched:
        """Start copying what the step yields to the host."""
        launched = Launched(
            step,
            batch.sampled_slots,
            tokens=None if sampled is None else self._land(sampled.tokens),
            scores=None if sampled is None else self._land_scores(sampled.scores),
            scored=self._sampler.scored(batch.sampled_slots),
            prompt_scores=self._land_scores(prompt_scores),
            prompt_scored=batch.scored,
            arrived=None,
        )
        if self._device.type != "cpu" and (sampled or prompt_scores):
            launched.arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # waiting sleeps
            launched.arrived.record()
        return launched

    def _land_scores(self, scores: Scores | None) -> Scores | None:
        return scores and Scores(self._land(scores.logprobs), self._land(scores.ids))

    def _land(self, tensor: Tensor) -> Tensor:
        """The tensor in host memory, once all that was queued before has been done."""
        if self._device.type == "cpu":
            return tensor
        landing = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return landing.copy_(tensor, non_blocking=True)


@contextmanager
def _device_errors() -> Iterator[None]:
    """CUDA's own errors, unlike a lack of memory, leave the device unusable for the rest of the process."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLostError(f"the device failed: {str(error).splitlines()[0]}") from error
