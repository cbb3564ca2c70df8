"""A request that an engine computes, and what it takes to go on with it at another one.

Its prompt, its parameters and the tokens so far are all there is to it: an engine that is given these yields
the tokens that would have followed. (A request for several samples begins again, and what comes a second time
is passed over: the same seed gives the same tokens.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenwire.v1 import engine_pb2
from tokenwire_services.tokenizer.samples import Samples

if TYPE_CHECKING:
    from tokenwire_services.tokenizer.engine_session import EngineSession


@dataclass(slots=True, eq=False)
class EngineRequest:
    """A live request."""

    request: engine_pb2.GenerateRequest
    samples: Samples
    output: list[int]
    """Of a request for one sample, the tokens so far, but for what its session has still to settle."""
    session: EngineSession
    """Which has it."""
    slot: int
    """Its number there."""
    repeated: list[int] | None = field(init=False)
    """Of a request for several: how many tokens of each sample come again, after a move."""
    num_moves: int = field(default=0, init=False)
    """Engines that it has lost."""

    def __post_init__(self) -> None:
        num_samples = len(self.samples.generations)
        self.repeated = [0] * num_samples if num_samples > 1 else None

    @property
    def token_ids(self) -> list[int]:
        """Output so far of a request for one sample."""
        self.session.settle()
        return self.output

    def cancel(self) -> None:
        """Have the engine end it; harmless when it has ended."""
        self.session.cancel(self)

    def take_back(self, handed_back: engine_pb2.HandedBack) -> None:
        """An engine handed it back. If that engine drew the seed, the next one is to use the same."""
        if handed_back.HasField("seed") and not self.request.sampling.HasField("seed"):
            self.request.sampling.seed = handed_back.seed

    def repeats(self, index: int) -> bool:
        """Whether a sample's next token is one that came before the request moved."""
        assert self.repeated is not None
        self.repeated[index] -= 1
        return self.repeated[index] >= 0

    def receive_logprobs(self, part: engine_pb2.SessionResponse.SlotLogprobs) -> None:
        """Those of one sample's tokens in this message, and of the prompt's next ones."""
        if part.HasField("prompt"):
            self.samples.receive_prompt(part.prompt)
        logprobs = self.samples.generations[part.sample_index].logprobs
        if logprobs is not None and part.HasField("tokens"):
            skip = 0 if self.repeated is None else max(0, self.repeated[part.sample_index])
            logprobs.arrive(part.tokens, skip)

    def resumed(self) -> engine_pb2.GenerateRequest:
        """The request that yields the rest of the output."""
        resumed = engine_pb2.GenerateRequest()
        resumed.CopyFrom(self.request)
        resumed.ClearField("model")  # by another name, maybe, but the same
        if self.samples.prompt_report is not None:
            self.samples.prompt_report.restart()
        else:
            resumed.logprobs.ClearField("num_prompt_logprobs")
        if self.repeated is None:
            resumed.resumed_token_ids.extend(self.token_ids)
        else:
            self.repeated = [generation.num_tokens for generation in self.samples.generations]
        return resumed


def read_handed_back(event: engine_pb2.SessionResponse.FinishEvent) -> engine_pb2.HandedBack | None:
    """What the engine says of a request that it hands back; None: it ended otherwise."""
    if not event.HasField("error"):
        return None
    handed_back = engine_pb2.HandedBack()
    return handed_back if any(detail.Unpack(handed_back) for detail in event.error.details) else None
