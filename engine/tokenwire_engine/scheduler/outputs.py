"""What happened to the requests since it was last asked: new tokens and ends, as columns.

Grouped by channel (one for each peer), so that whoever serves a peer takes its part of a step as it is,
whatever the number of requests in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.scheduler.request import FinishReason


@dataclass(slots=True)
class Finished:
    """The end of one request, or of one of its samples."""

    request_id: str
    label: int
    """The channel's number for the request."""
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Tokens of output, those of an earlier engine included; with `is_last`, of all samples together."""
    cached_prompt_tokens: int = 0
    """Prompt tokens whose computation the prefix cache saved."""
    stop_token_id: int | None = None
    """The token that ended it, with STOP; None when its grammar did."""
    error: str = ""
    """What went wrong, with ERROR and EXPIRED."""
    seed: int = 0
    """What it was sampled with."""
    sample_index: int = 0
    """Which of the request's samples."""
    is_last: bool = True
    """Whether the request has ended with it: no other sample goes on."""


@dataclass(slots=True)
class ChannelOutput:
    """What happened to one channel's requests. Entry i of `labels` and `token_ids` belong together; several
    tokens of one label are in order; ends come after all tokens."""

    labels: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    sample_indices: list[int] = field(default_factory=list)
    """Of each token, which of its request's samples it belongs to. Empty: all to sample 0."""
    logprobs: dict[tuple[int, int], Logprobs] = field(default_factory=dict)
    """By label and sample: of their tokens, where the requests ask for them."""
    prompt_logprobs: list[tuple[int, Logprobs]] = field(default_factory=list)
    """By label: of the next tokens of its prompt, from the second on (nothing precedes the first)."""

    def add_token(self, label: int, token_id: int, sample_index: int) -> None:
        """The next token of one sample of a request."""
        if sample_index or self.sample_indices:
            self.sample_indices += [0] * (len(self.labels) - len(self.sample_indices))
            self.sample_indices.append(sample_index)
        self.labels.append(label)
        self.token_ids.append(token_id)

    def add_tokens(
        self, labels: Sequence[int], token_ids: Sequence[int], sample_indices: Sequence[int]
    ) -> None:
        """The next tokens of as many samples."""
        if self.sample_indices or any(sample_indices):
            self.sample_indices += [0] * (len(self.labels) - len(self.sample_indices))
            self.sample_indices += sample_indices
        self.labels += labels
        self.token_ids += token_ids


Outputs = dict[int, ChannelOutput]
"""By channel, only those to which something happened."""
