"""What one engine step computes: the message from the scheduler to the runner, and the answer.

Plain data, and only the changes: the runner remembers what it was told of a slot (block table, sampling
parameters, token counts), so that a decode step costs one small row a request, and the same plan can be
sent to every tensor-parallel rank.

A plan may be made before the result of the one before it is known. The tokens that the earlier step samples
are then `PENDING` in it: the device has them when it comes to them. What grammars allow depends on those
tokens, so it follows the plan, as `TokenMasks`. What decodes steadily is columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenwire_engine.kv_cache.host_tier import HostMoves
from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.sampling.params import SamplingParams

PENDING = -1
"""In place of a token: the one that was sampled last for the slot, whose step's result the host may not have
yet."""


@dataclass(slots=True)
class Admission:
    """A request takes a slot: all that does not change while it runs there."""

    slot: int
    sampling: SamplingParams
    prompt_token_ids: list[int]
    """The prompt."""
    output_token_ids: list[int]
    """Tokens already generated (before a preemption, or by an earlier engine)."""


@dataclass(slots=True)
class ScoredPrompt:
    """Tokens of a prompt whose log-probabilities a step yields."""

    start: int
    """Position of the token before the first of them, which is among those that the step computes."""
    token_ids: list[int]
    """At least one."""
    num_top: int
    """Alternatives to return with each."""


@dataclass(slots=True)
class ScheduledTokens:
    """Tokens of one slot to compute in this step: positions `start` to `start + len(token_ids)`."""

    slot: int
    start: int
    """Position of the first token; everything before it is in the KV cache."""
    token_ids: Sequence[int]
    """At least one; of `PENDING` ones at most the last."""
    new_blocks: Sequence[Sequence[int]]
    """Physical block ids to append to the slot's block tables before this step: those of each group of
    layers, or nothing at all."""
    samples: bool
    """Whether the last of these tokens is the last one known, so that the step yields the next token."""
    scored: ScoredPrompt | None = None
    """Where the request asks for log-probabilities of its prompt: those that this step can tell."""


@dataclass(slots=True)
class DecodeColumns:
    """Slots that each compute one token, the one sampled last for them, and sample the next; as columns.

    The position of each one's token is its base plus `shift`; everything before it is in the KV cache.
    """

    slots: Sequence[int] = ()
    """The same object as in the plan before, where slots and bases are the same."""
    bases: Sequence[int] = ()
    """The same object where `slots` is."""
    shift: int = 0
    growing: Sequence[int] = ()
    """Those of the slots whose block tables get another block before this step."""
    new_blocks: Sequence[Sequence[int]] = ()
    """For each group of layers the physical block id that each of `growing` gets."""


@dataclass(slots=True)
class StepPlan:
    """One step. The runner applies `released`, `admitted`, `host_moves` and `copies` in this order, and then
    computes `decodes` and `scheduled`."""

    step: int
    released: list[int] = field(default_factory=list)
    """Slots whose request is gone (finished, cancelled or preempted)."""
    host_moves: HostMoves = field(default_factory=HostMoves)
    """Blocks that are copied to host memory, and then those that come back from there."""
    copies: list[tuple[int, int]] = field(default_factory=list)
    """Blocks whose content is copied, and where to; no block is both read and written."""
    admitted: list[Admission] = field(default_factory=list)
    decodes: DecodeColumns = field(default_factory=DecodeColumns)
    scheduled: list[ScheduledTokens] = field(default_factory=list)
    """All other rows; in no particular order, decodes too."""
    constrained: Sequence[int] = ()
    """Of the tokens that the step samples, by index in the plan's order, those that grammars have a say in.
    Where there are any, the step samples once it has its `TokenMasks`."""

    @property
    def num_rows(self) -> int:
        return len(self.decodes.slots) + len(self.scheduled)

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step."""
        return len(self.decodes.slots) + sum(len(row.token_ids) for row in self.scheduled)

    def rows(self) -> list[ScheduledTokens]:
        """Every row by itself, in the plan's order: `decodes`, and then `scheduled`."""
        columns = self.decodes
        new_blocks = {
            slot: [[block] for block in blocks]
            for slot, *blocks in zip(columns.growing, *columns.new_blocks, strict=True)
        }
        decodes = [
            ScheduledTokens(slot, base + columns.shift, (PENDING,), new_blocks.get(slot, ()), samples=True)
            for slot, base in zip(columns.slots, columns.bases, strict=True)
        ]
        return decodes + self.scheduled


@dataclass(slots=True)
class TokenMasks:
    """What a step may sample, once all tokens before those are known."""

    rows: list[int]
    """Those of the plan's `constrained` that matter: of the others the host knows already that it will not
    look at what is sampled for them."""
    bits: bytearray
    """For each of `rows`, one after the other, as many int32 words as its vocabulary takes: token t may come
    where bit t % 32 of little-endian word t // 32 is set."""


@dataclass(slots=True)
class StepResult:
    """What a step yielded: one token for each scheduled row that samples, in the plan's order."""

    step: int
    slots: list[int]
    token_ids: list[int]
    logprobs: dict[int, Logprobs] = field(default_factory=dict)
    """Of those tokens whose request asks for them, by index."""
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    """One for each scheduled row with `scored`, in the plan's order."""
