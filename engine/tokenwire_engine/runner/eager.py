"""Steps of whatever rows, operator by operator: the batch is laid out on the host and sent in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.batch import StepBatch, assemble
from tokenwire_engine.runner.decodes import SteadyRows
from tokenwire_engine.runner.launched import Landing, Launched
from tokenwire_engine.runner.slots import SlotState
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.sampling.sampler import Sampled
from tokenwire_engine.sampling.scores import Scores, joined
from tokenwire_engine.scheduler.plan import StepPlan
from tokenwire_kernels import Kernels, LayerCache


class EagerExecutor:
    """The `StepExecutor` that takes every plan."""

    def __init__(
        self,
        decoder: Decoder,
        caches: Sequence[LayerCache],
        kernels: Kernels,
        slots: SlotState,
        staging: Staging,
        landing: Landing,
        block_size: int,
    ) -> None:
        self._decoder = decoder
        self._caches = caches
        self._kernels = kernels
        self._slots = slots
        self._staging = staging
        self._landing = landing
        self._block_size = block_size
        self._steady = SteadyRows()

    def execute(self, plan: StepPlan) -> Launched:
        """See `StepExecutor.execute`."""
        tables, sampler = self._slots.tables, self._slots.sampler
        batch = assemble(plan, tables, self._block_size, self._steady)
        sent = self._staging.send(
            batch.arrays
            | tables.take_changes()
            | sampler.prepare(batch.sampled_slots, batch.sampled_positions)
        )
        tables.update(sent)
        if "pending_tokens" in sent:
            sampled_before = self._slots.latest_tokens.index_select(0, sent["pending_slots"])
            sent["token_ids"].index_copy_(0, sent["pending_tokens"], sampled_before)
        hidden = self._decoder.forward(batch.on_device(sent, tables, self._block_size), self._caches)
        prompt_scores = self._score_prompts(hidden, batch, sent)
        sampled = self._sample(hidden, batch, sent)
        return self._landing.send(
            Launched(
                plan.step,
                batch.sampled_slots,
                sampled,
                sampler.scored(batch.sampled_slots),
                prompt_scores,
                batch.scored,
            )
        )

    def _sample(self, hidden: Tensor, batch: StepBatch, sent: dict[str, Tensor]) -> Sampled | None:
        if not batch.sampled_slots:
            return None
        if not batch.samples_all:
            hidden = hidden.index_select(0, sent["sampled_tokens"])
        logits = self._decoder.logits(hidden).float()
        sampled = self._slots.sampler.sample(logits, batch.sampled_slots, sent)
        self._slots.latest_tokens.index_copy_(0, sent["sampled_slots"], sampled.tokens)
        return sampled

    def _score_prompts(self, hidden: Tensor, batch: StepBatch, sent: dict[str, Tensor]) -> Scores | None:
        """Log-probabilities of prompt tokens, so many at a time as rows can be sampled: their logits, which
        stay in the model's format, need no more memory than the sampler's."""
        if not batch.scored:
            return None
        num_top = max(prompt.num_top for prompt in batch.scored)
        rows = self._slots.num_slots
        pieces = zip(
            torch.split(sent["scoring_tokens"], rows),
            torch.split(sent["scored_token_ids"], rows),
            strict=True,
        )
        return joined(
            [
                Scores(
                    *self._kernels.score_tokens(
                        self._decoder.logits(hidden.index_select(0, places)), None, targets, num_top
                    )
                )
                for places, targets in pieces
            ]
        )
