"""Parallel samples of one request: several continuations of a prompt that is computed once.

Each sample is a request of its own to the scheduler. The first computes the prompt; the others wait until a
step that finishes it is planned, and then begin with its blocks: full ones are shared, and the one that the
prompt's last token falls into, which each sample goes on to write to, is copied. Only that token is computed
again, for the logits that each sample draws from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tokenwire_engine.kv_cache.prefix_node import PrefixChain

if TYPE_CHECKING:
    from tokenwire_engine.scheduler.request import Request


@dataclass(slots=True)
class Samples:
    """The samples of one request, which end one by one."""

    members: list[Request]
    """All of them, in order; none once the last has ended."""
    num_live: int
    """How many have not ended."""
    unborn: list[Request] = field(default_factory=list)
    """Those that wait for the first to compute the prompt."""
    completion_tokens: int = 0
    """Of those that have ended."""


def make_samples(request: Request) -> Samples:
    """A request's samples, of which it is the first itself."""
    others = [
        replace(
            request,
            sampling=replace(request.sampling, sample_index=request.sampling.sample_index + number),
            num_samples=1,
            num_prompt_logprobs=None,
            output_token_ids=[],
            cache=PrefixChain(request.cache.scope),
            grammar=request.grammar and request.grammar.copy(),
        )
        for number in range(1, request.num_samples)
    ]
    members = [request, *others]
    samples = Samples(members, len(members), others)
    for member in members:
        member.samples = samples
    return samples
