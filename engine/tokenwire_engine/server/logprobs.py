"""Log-probabilities that wait to be sent, and how they look on the wire.

What one message carries of them is bounded, so that a peer's limit on message sizes (4 MiB by default) is
never met: with `MAX_LOGPROBS` alternatives a token takes about 150 bytes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.scheduler.outputs import ChannelOutput

MAX_MESSAGE_LOGPROBS = 8192
"""Most tokens with log-probabilities in one message, and most prompt tokens besides."""

SlotLogprobs = engine_pb2.SessionResponse.SlotLogprobs


class PendingLogprobs:
    """One channel's log-probabilities."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[int, int], Logprobs] = {}
        """By label and sample."""
        self._prompts: deque[tuple[int, Logprobs]] = deque()

    def __bool__(self) -> bool:
        return bool(self._tokens or self._prompts)

    def receive(self, output: ChannelOutput) -> None:
        """Keep those of a step."""
        for sample, logprobs in output.logprobs.items():
            if sample in self._tokens:
                self._tokens[sample].extend(logprobs)
            else:
                self._tokens[sample] = logprobs
        self._prompts.extend(output.prompt_logprobs)

    @property
    def has_prompts(self) -> bool:
        """Whether something is still to be said of a prompt; it goes out before the tokens behind it."""
        return bool(self._prompts)

    def take_prompt(self, most: int = MAX_MESSAGE_LOGPROBS) -> SlotLogprobs | None:
        """Remove the next piece of a prompt, of at most so many tokens; None: there is none."""
        if not self._prompts:
            return None
        label, logprobs = self._prompts[0]
        piece = SlotLogprobs(slot=label, prompt=_columns(logprobs.take(most)))
        if not logprobs:
            self._prompts.popleft()
        return piece

    def take(self, samples: Iterable[tuple[int, int]]) -> list[SlotLogprobs]:
        """Remove what belongs into a message with these tokens: of each its label and sample."""
        taken: list[SlotLogprobs] = []
        if self._tokens:
            for sample, count in Counter(samples).items():
                if (tokens := self._tokens.get(sample)) is not None:
                    label, index = sample
                    columns = _columns(tokens.take(count))
                    taken.append(SlotLogprobs(slot=label, sample_index=index, tokens=columns))
                    if not tokens:
                        del self._tokens[sample]
        return taken


def _columns(logprobs: Logprobs) -> generation_pb2.LogprobColumns:
    return generation_pb2.LogprobColumns(
        token_logprobs=logprobs.token_logprobs,
        token_ranks=logprobs.token_ranks,
        num_top=logprobs.num_top,
        top_token_ids=logprobs.top_token_ids,
        top_logprobs=logprobs.top_logprobs,
    )
