"""One request's samples: independent continuations of one prompt, and what they have in common.

What is said of the prompt goes out once, before any output. Each sample ends by itself; the end of the last
one is the request's, and carries its usage. An error, or the peer, ends all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_services.tokenizer.errors import at_field, at_source
from tokenwire_services.tokenizer.outbox import Finish, Outbox
from tokenwire_services.tokenizer.prompt_report import PromptReport

if TYPE_CHECKING:
    from tokenwire_services.tokenizer.generation import Generation


@dataclass(slots=True, weakref_slot=True)
class Samples:
    """All output of one request."""

    slot: int
    """The peer's number for the request."""
    outbox: Outbox
    num_prompt_tokens: int
    prompt_field: str = "prompt"
    """What errors call the prompt."""
    sources: Sequence[str] = ()
    """For each line of a grammar that was written for the request, the field that it is for."""
    prompt_report: PromptReport | None = None
    """What is to be said of the prompt, until it was."""
    generations: list[Generation] = field(default_factory=list)
    """By sample index."""
    _cached_prompt_tokens: int = field(default=0, init=False)

    @property
    def finished(self) -> bool:
        """Whether every sample has ended."""
        return all(generation.finished for generation in self.generations)

    def resume(self, token_ids: Sequence[Sequence[int]]) -> None:
        """Go on behind tokens of each sample whose output the peer has.

        Nothing of them goes out again but the end of a sample that they complete.
        """
        outbox, self.outbox = self.outbox, Outbox(max_bytes=0)
        for generation, tokens in zip(self.generations, token_ids, strict=False):
            generation.replay(tokens)
        for slot, finish in self.outbox.finished:
            outbox.finish(slot, finish)
        self.outbox = outbox
        if any(token_ids):
            self.prompt_report = None

    def receive_prompt(self, columns: generation_pb2.LogprobColumns) -> None:
        """Log-probabilities of the prompt's next tokens."""
        if self.prompt_report is not None:
            self.prompt_report.receive(columns)

    def report_prompt(self) -> None:
        """Say what is to be said of the prompt; to be called before any output goes out."""
        if self.prompt_report is not None:
            self.outbox.add_detail(self.slot, self.prompt_report.response(), [])
            self.prompt_report = None

    def end(self, event: engine_pb2.SessionResponse.FinishEvent) -> None:
        """The engine ended a sample, or the request."""
        if event.HasField("error"):
            self.fail(StatusError.from_proto(event.error))
            return
        is_last = event.HasField("usage")
        if is_last:
            self._cached_prompt_tokens = event.usage.cached_prompt_tokens
            for generation in self.generations:
                generation.end(event)
        elif event.sample_index < len(self.generations):
            self.generations[event.sample_index].end(event)

    def finish(self, sample_index: int, finish: Finish) -> None:
        """A sample has ended; the last one's end gets the request's usage."""
        if self.finished:
            # What the prefix cache saved, only the engine's last event says.
            finish.usage = generation_pb2.Usage(
                prompt_tokens=self.num_prompt_tokens,
                completion_tokens=sum(generation.num_tokens for generation in self.generations),
                cached_prompt_tokens=self._cached_prompt_tokens,
            )
        finish.sample_index = sample_index
        self.outbox.finish(self.slot, finish)

    def cancel(self) -> None:
        """The peer ended the request."""
        for generation in self.generations:
            generation.cancel()

    def fail(self, error: StatusError) -> None:
        """An error ended the request."""
        if not self.finished:
            for generation in self.generations:
                generation.finished = True
            self.prompt_report = None
            error = at_source(at_field(error, "prompt_token_ids", self.prompt_field), self.sources)
            finish = Finish(generation_pb2.FINISH_REASON_ERROR, generation_pb2.Usage(), error=error)
            self.outbox.finish(self.slot, finish)
