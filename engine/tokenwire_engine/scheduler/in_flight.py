"""A step in the making, and then on its way: its plan, whom its rows belong to, and what to do when its
result is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenwire_engine.scheduler.decode_rows import DecodeRows
from tokenwire_engine.scheduler.plan import PENDING, ScheduledTokens, StepPlan, TokenMasks
from tokenwire_engine.scheduler.request import Request

_PENDING = (PENDING,)
NO_DECODES = DecodeRows()


@dataclass(slots=True)
class StepInFlight:
    """A plan, and whom its rows belong to."""

    plan: StepPlan
    num_decodes: int = 0
    num_prefilled: int = 0
    """Tokens of all other rows."""
    num_prompt_tokens: int = 0
    """Tokens of prompts among them."""
    decoding: DecodeRows = NO_DECODES
    """The rows that are columns in the plan, all of which sample."""
    sampling: list[Request] = field(default_factory=list)
    """The requests of the other rows that sample, in the plan's order."""
    not_sampling: list[Request] = field(default_factory=list)
    """The requests of the rows that do not."""
    scored: list[Request] = field(default_factory=list)
    """The requests of the rows that yield log-probabilities of the prompt, in the plan's order."""
    prompts_done: list[Request] = field(default_factory=list)
    """Requests whose prompt it computes the last token of, and whose other samples wait for that."""
    filled: list[tuple[Request, int]] = field(default_factory=list)
    """Requests with a block that this step computes the last token of, and how many tokens are computed
    then."""
    decodes_filled: Sequence[Request] = ()
    """Those of the rows in `decoding` that it computes the last token of a block of."""

    @property
    def num_requests(self) -> int:
        return self.num_tokens + len(self.not_sampling)

    @property
    def num_tokens(self) -> int:
        """Rows that sample."""
        return len(self.decoding) + len(self.sampling)

    @property
    def requests(self) -> list[Request]:
        """Of all rows."""
        return [*self.decoding.columns.requests, *self.sampling, *self.not_sampling]

    def sampled_for(self, index: int) -> Request:
        """The request of one of the rows that sample."""
        num_decoding = len(self.decoding)
        if index < num_decoding:
            return self.decoding.columns.requests[index]
        return self.sampling[index - num_decoding]

    def constrained(self) -> list[int]:
        """The tokens that it samples, by index, whose requests have grammars."""
        others = enumerate(self.sampling, start=len(self.decoding))
        return [*self.decoding.constrained, *(index for index, each in others if each.grammar is not None)]

    def masks(self) -> TokenMasks:
        """What the grammars allow, once all tokens are known that the steps before it sample."""
        masks = TokenMasks([], bytearray())
        for index in self.plan.constrained:
            request = self.sampled_for(index)
            if request.grammar is not None and request.awaits_sample:
                masks.rows.append(index)
                masks.bits += request.grammar.mask()
        return masks

    def add(
        self, request: Request, start: int, end: int, samples: bool, new_blocks: Sequence[Sequence[int]]
    ) -> None:
        """A row: compute a request's tokens at positions `start` to `end`."""
        scored = None
        if request.num_prompt_logprobs is not None and (scored := request.scored_prompt(start, end)):
            self.scored.append(request)
        # Whoever has a pending token has nothing else to compute.
        token_ids = _PENDING if request.num_pending else request.tokens(start, end)
        self.plan.scheduled.append(
            ScheduledTokens(request.slot, start, token_ids, new_blocks, samples, scored)
        )
        (self.sampling if samples else self.not_sampling).append(request)
        num_prompt = len(request.prompt_token_ids)
        if start < num_prompt:
            self.num_prompt_tokens += min(end, num_prompt) - start
            if end >= num_prompt and request.samples.unborn:
                self.prompts_done.append(request)
