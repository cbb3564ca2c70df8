"""Log-probabilities of tokens that were sampled or given, and of the most likely ones at their places.

They are of the model's own distribution, before any sampling parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_LOGPROBS = 20
"""Most alternatives a token, as in OpenAI's API."""


@dataclass(slots=True)
class Logprobs:
    """Log-probabilities of a run of tokens, as columns; `top_*` hold `num_top` values a token, token by
    token, most likely first."""

    num_top: int
    token_logprobs: list[float] = field(default_factory=list)
    """Natural logarithms."""
    token_ranks: list[int] = field(default_factory=list)
    """Among the vocabulary, 1 = most likely; tokens of equal probability share the better one."""
    top_token_ids: list[int] = field(default_factory=list)
    top_logprobs: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_logprobs)

    def extend(self, other: Logprobs) -> None:
        """Append those of the tokens that follow."""
        self.token_logprobs += other.token_logprobs
        self.token_ranks += other.token_ranks
        self.top_token_ids += other.top_token_ids
        self.top_logprobs += other.top_logprobs

    def take(self, count: int) -> Logprobs:
        """Remove the first `count` tokens, and return them."""
        top = count * self.num_top
        taken = Logprobs(
            self.num_top,
            self.token_logprobs[:count],
            self.token_ranks[:count],
            self.top_token_ids[:top],
            self.top_logprobs[:top],
        )
        del self.token_logprobs[:count], self.token_ranks[:count]
        del self.top_token_ids[:top], self.top_logprobs[:top]
        return taken
