"""One request's sampling parameters, as plain data.

Values are valid by the time one of these exists: the server checks them when it reads a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_BAD_WORD_TOKENS = 32
"""Longest token sequence that can be forbidden."""


@dataclass(slots=True, frozen=True)
class SamplingParams:
    """How one request chooses its tokens. Defaults change nothing about the model's distribution."""

    temperature: float = 1.0
    """0 is greedy decoding."""
    top_k: int = 0
    """0 keeps every token."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    """Any 64-bit number; the server draws one where the request has none."""
    sample_index: int = 0
    """Which of a request's samples: with the seed and the token's position, all that chance depends on."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """By token: added to its logit."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that must not be produced, each of 1 to `MAX_BAD_WORD_TOKENS` tokens."""
    allowed_token_ids: tuple[int, ...] = ()
    """When not empty, no other token is produced."""
    min_tokens: int = 0
    """Tokens of output before one of `ending_token_ids` may come."""
    ending_token_ids: tuple[int, ...] = ()
    """What would end the request; read only with `min_tokens`."""
    num_logprobs: int | None = None
    """Log-probabilities to return: None for none, else of the sampled token and of so many alternatives."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def is_special(self) -> bool:
        """Whether logits have to be changed or looked at beyond what the sampling kernel does."""
        return self.changes_logits or self.typical_p < 1.0 or self.num_logprobs is not None

    @property
    def changes_logits(self) -> bool:
        """Whether the token is sampled from other logits than the model's."""
        return bool(
            self.has_penalties
            or self.logit_bias
            or self.bad_words
            or self.allowed_token_ids
            or self.min_tokens
        )

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
