"""What a step takes, learnt from the steps there were: step + decode * decodes + token * prompt tokens.

Weighted least squares with exponential forgetting. Errors count relative to the time that a step took, so
that one which something else held up hardly counts. Steps that were all alike say nothing of how their time
divides: in whatever direction nothing was learnt, the estimate stays where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FORGETTING = 0.95
"""Weight of a step against the next one."""
INERTIA = 0.01
"""How much an estimate is held to the one before, relative to what the steps say."""
TINY = 1e-12
"""Nothing was learnt of a term of which no step had any; it stays 0."""


@dataclass(slots=True)
class StepCost:
    """The three terms, in seconds; none of them is negative."""

    step_s: float = 0.0
    decode_s: float = 0.0
    prompt_token_s: float = 0.0
    _products: list[list[float]] = field(default_factory=lambda: [[0.0] * 3 for _ in range(3)])
    """Decayed sums of x xᵀ, x = (1, decodes, prompt tokens) / seconds."""
    _sums: list[float] = field(default_factory=lambda: [0.0] * 3)
    """And of x: times it, the terms should make 1."""

    def decodes_s(self, num_decodes: int) -> float:
        """Of a step of so many decodes."""
        return self.step_s + self.decode_s * num_decodes

    def observe(self, seconds: float, num_decodes: int, num_prompt_tokens: int) -> None:
        """A step of so many decodes and tokens of prompts took so long."""
        if seconds <= 0.0:
            return
        row = (1.0 / seconds, num_decodes / seconds, num_prompt_tokens / seconds)
        for i, products in enumerate(self._products):
            self._sums[i] = FORGETTING * self._sums[i] + row[i]
            for j in range(3):
                products[j] = FORGETTING * products[j] + row[i] * row[j]
        before = (self.step_s, self.decode_s, self.prompt_token_s)
        equations = []
        for i, products in enumerate(self._products):
            held = INERTIA * products[i] + TINY
            equations.append([*products, self._sums[i] + held * before[i]])
            equations[i][i] += held
        terms = [max(0.0, term) for term in _solve(equations)]
        self.step_s, self.decode_s, self.prompt_token_s = terms


def _solve(equations: list[list[float]]) -> list[float]:
    """Of a positive definite matrix, with the right-hand side behind each row; by elimination, in place."""
    size = len(equations)
    for i, pivot in enumerate(equations):
        for row in equations[i + 1 :]:
            factor = row[i] / pivot[i]
            for k in range(i, size + 1):
                row[k] -= factor * pivot[k]
    terms = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(equations[i][k] * terms[k] for k in range(i + 1, size))
        terms[i] = (equations[i][size] - rest) / equations[i][i]
    return terms
