"""A request's place in its language: llguidance's matcher as the scheduler's `Grammar`."""

from __future__ import annotations

from llguidance import LLMatcher

LIMITS_EXCEEDED = (
    "became too complex at this output; simplify its patterns, bound its repetitions, or give it an end"
)

_REFUSED = "doesn't satisfy the grammar"
"""What llguidance says of a token that no output goes on with."""


class MatcherGrammar:
    """A `scheduler.grammar.Grammar`. Copies share what they have learnt of the language."""

    __slots__ = ("_matcher", "_refused")

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._refused = False

    @property
    def is_finished(self) -> bool:
        return self._matcher.is_stopped()

    @property
    def error(self) -> str:
        if not self._refused:
            return LIMITS_EXCEEDED
        return (
            "left no token to choose: it and the request's other parameters (bad words, allowed tokens, "
            "biases) exclude each other here"
        )

    def accept(self, token_id: int) -> bool:
        if self._matcher.consume_token(token_id):
            return True
        self._refused = _REFUSED in self._matcher.get_error()  # else it has run into its limits
        return False

    def mask(self) -> bytes:
        return self._matcher.compute_bitmask()

    def forced(self) -> list[int]:
        return self._matcher.compute_ff_tokens()

    def copy(self) -> MatcherGrammar:
        return MatcherGrammar(self._matcher.deep_copy())
