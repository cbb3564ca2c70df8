"""How many tokens of prompts a step may compute while other requests decode.

A step is as long as its tokens make it, and every decoding stream waits for all of it. Where the budget
adapts, prompts may lengthen a step by as much as its decodes take by themselves (so that streams keep at
least half of their speed), or by `LEAST_EXTRA_S` if that is more. Where more requests wait for their first
token than for their next, the streams are the fewer to be kept waiting, and the more of them would soon share
a step: prompts may take as many times as long, up to `MOST_EXTRA_S`. What tokens take is learnt from the
steps themselves (`StepCost`). With nobody decoding there is nobody to wait, and prompts are computed at full
speed.
"""

from __future__ import annotations

from tokenwire_engine.scheduler.step_cost import StepCost

LEAST_EXTRA_S = 0.02
"""Prompts may add as much in any case: nobody notices it, and they would crawl behind the fastest decodes."""
MOST_EXTRA_S = 0.25
"""However many wait, a stream does not stand still for longer, unless its own steps take as long."""
LEAST_TOKENS = 16
"""However slow prompts are, they get on."""
LEARN_FROM = 8
"""Of steps that decode as many requests as the one before, and nothing else, one in so many is learnt from:
there are thousands of them, and they say little that is new."""


class StepBudget:
    """Learns from the steps what the next ones may hold."""

    def __init__(self, most: int, adapts: bool) -> None:
        """
        Args:
            most: tokens in one step, whatever is measured.
            adapts: whether fewer are chosen to bound the step's time.
        """
        self.most = most
        self._adapts = adapts
        self._cost = StepCost()
        self._num_alike = self._latest_decodes = 0

    def prompt_tokens(self, num_decodes: int, num_waiting: int) -> int:
        """Most tokens of prompts in a step with so many decodes, while so many requests have yet to get their
        first token."""
        room = self.most - num_decodes
        if not (self._adapts and num_decodes and self._cost.prompt_token_s):
            return room
        least_s = max(self._cost.decodes_s(num_decodes), LEAST_EXTRA_S)
        extra_s = max(least_s, min(MOST_EXTRA_S, least_s * num_waiting / num_decodes))
        return min(room, max(LEAST_TOKENS, int(extra_s / self._cost.prompt_token_s)))

    def observe(self, seconds: float, num_decodes: int, num_prompt_tokens: int) -> None:
        """A step with so many decodes and tokens of prompts took so long."""
        if self._adapts and self._says_something_new(num_decodes, num_prompt_tokens):
            self._cost.observe(seconds, num_decodes, num_prompt_tokens)

    def _says_something_new(self, num_decodes: int, num_prompt_tokens: int) -> bool:
        is_alike = num_prompt_tokens == 0 and num_decodes == self._latest_decodes
        self._num_alike = self._num_alike + 1 if is_alike else 0
        self._latest_decodes = num_decodes
        return self._num_alike % LEARN_FROM == 0
