"""Steps of whatever rows, operator by operator: the batch is laid out on the host and sent in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.batch import StepBatch, assemble, fill_pending
from tokenwire_engine.runner.executor import Sampling
from tokenwire_engine.runner.launched import Landing, Launched
from tokenwire_engine.runner.slots import SlotState
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.sampling.scores import Scores, joined
from tokenwire_engine.scheduler.plan import StepPlan, TokenMasks
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
    ) -> None:
        self._decoder = decoder
        self._caches = caches
        self._kernels = kernels
        self._slots = slots
        self._staging = staging
        self._landing = landing

    def forward(self, plan: StepPlan) -> Sampling:
        """See `StepExecutor.forward`."""
        tables, sampler = self._slots.tables, self._slots.sampler
        batch = assemble(plan, tables, self._slots.steady.of(plan.decodes))
        sent = self._staging.send(
            batch.inputs
            | batch.pending
            | batch.arrays
            | tables.take_changes()
            | sampler.prepare(batch.sampled_slots, batch.sampled_positions)
        )
        tables.update(sent)
        fill_pending(sent["token_ids"], sent, self._slots.latest_tokens)
        hidden = self._decoder.forward(batch.on_device(sent, tables), self._caches)
        prompt_scores = self._score_prompts(hidden, batch, sent)
        return partial(self._sample, plan.step, batch, sent, self._logits(hidden, batch, sent), prompt_scores)

    def _logits(self, hidden: Tensor, batch: StepBatch, sent: dict[str, Tensor]) -> Tensor | None:
        """Of the tokens that the step samples; None: it samples none."""
        if not batch.sampled_slots:
            return None
        if not batch.samples_all:
            hidden = hidden.index_select(0, sent["sampled_tokens"])
        return self._decoder.logits(hidden).float()

    def _sample(
        self,
        step: int,
        batch: StepBatch,
        sent: dict[str, Tensor],
        logits: Tensor | None,
        prompt_scores: Scores | None,
        masks: TokenMasks | None,
    ) -> Launched:
        slots, sampler, sampled = batch.sampled_slots, self._slots.sampler, None
        if logits is not None:
            sampled = sampler.sample(logits, slots, sent, masks)
            self._slots.latest_tokens.index_copy_(0, sent["sampled_slots"], sampled.tokens)
        return self._landing.send(
            Launched(step, slots, sampled, sampler.scored(slots), prompt_scores, batch.scored)
        )

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
