"""A step that the device computes, and how what it yields comes to the host.

On a GPU the results are copied on a stream of their own into pinned memory, so that the stream that computes
goes on with the next step; whoever waits for them sleeps. On a CPU they are where they were computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_engine.sampling.sampler import Sampled
from tokenwire_engine.sampling.scores import Scores
from tokenwire_engine.scheduler.plan import ScoredPrompt, StepResult


@dataclass(slots=True)
class Launched:
    """A step whose tokens are on their way to the host."""

    step: int
    slots: Sequence[int]
    """Those that yield a token, in the plan's order."""
    sampled: Sampled | None = None
    """In host memory, once `arrived`, as are the others."""
    scored: Sequence[tuple[int, int]] = ()
    """Index and number of alternatives of each token whose request asks for log-probabilities."""
    prompt_scores: Scores | None = None
    prompt_scored: Sequence[ScoredPrompt] = ()
    """Whose they are."""
    sources: Sequence[Tensor] = ()
    """What is being copied: kept until it is."""
    arrived: torch.cuda.Event | None = None
    """None: on a CPU, where launching computes."""

    def result(self) -> StepResult:
        """What the step yielded. Waits for it."""
        if self.arrived is not None:
            self.arrived.synchronize()
        result = StepResult(
            self.step, list(self.slots), [] if self.sampled is None else self.sampled.tokens.tolist()
        )
        if self.sampled is not None and self.sampled.scores is not None:
            for row, (index, num_top) in enumerate(self.scored):
                result.logprobs[index] = self.sampled.scores.columns(row, 1, num_top)
        if self.prompt_scores is not None:
            start = 0
            for prompt in self.prompt_scored:
                count = len(prompt.token_ids)
                result.prompt_logprobs.append(self.prompt_scores.columns(start, count, prompt.num_top))
                start += count
        return result


class Landing:
    """Sends what steps yield to the host."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def send(self, launched: Launched) -> Launched:
        """Start copying a step's results, which are on the device, behind all that was queued so far. A step
        without any is waited for all the same: the host must not run further ahead of what it has staged."""
        if self._copies is None:
            return launched
        sources = [*_tensors_of(launched.sampled), *_tensors_of(launched.prompt_scores)]
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            if (sampled := launched.sampled) is not None:
                launched.sampled = Sampled(_landed(sampled.tokens), _landed_scores(sampled.scores))
            launched.prompt_scores = _landed_scores(launched.prompt_scores)
            launched.arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # sleeps
            launched.arrived.record(self._copies)
        launched.sources = sources
        return launched


def _tensors_of(results: Sampled | Scores | None) -> list[Tensor]:
    match results:
        case Sampled(tokens, scores):
            return [tokens, *_tensors_of(scores)]
        case Scores(logprobs, ids):
            return [logprobs, ids]
        case None:
            return []


def _landed(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _landed_scores(scores: Scores | None) -> Scores | None:
    return scores and Scores(_landed(scores.logprobs), _landed(scores.ids))
