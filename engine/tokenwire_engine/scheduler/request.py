"""One request as the scheduler sees it: tokens known, tokens computed, and where it ends.

There is no prefill state and no decode state. The known tokens are the prompt and the output so far; the
first `num_computed` of them are in the KV cache (or will be once the steps launched so far are done), the
others are still to go. A step may be planned before the token of the one before it is known: such a token is
pending. It can be computed like a known one, but not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from tokenwire_engine.kv_cache.block_table import BlockTable
from tokenwire_engine.kv_cache.prefix_node import PrefixChain
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.grammar import Grammar
from tokenwire_engine.scheduler.plan import ScoredPrompt
from tokenwire_engine.scheduler.samples import Samples

NO_SLOT = -1
"""The slot of a request that is not running."""
NO_ROW = -1
"""The row of one that is not in the batch of decodes."""


class FinishReason(Enum):
    """Why a request ended."""

    STOP = auto()
    """It produced one of its stop tokens, or all of what its grammar allows."""
    LENGTH = auto()
    """It reached its last position."""
    CANCELLED = auto()
    """Its caller asked for it."""
    ERROR = auto()
    """A step that computed it failed."""
    UNSATISFIABLE = auto()
    """No token was left that its grammar and its parameters allow."""
    EXPIRED = auto()
    """Its deadline passed."""
    HANDED_BACK = auto()
    """The engine drains: its caller continues it elsewhere."""


@dataclass(slots=True)
class Request:
    """One sequence to continue. The first fields are the caller's, the others the scheduler's own."""

    request_id: str
    """Unique among the live requests, but that all samples of one have the same."""
    prompt_token_ids: list[int]
    sampling: SamplingParams
    max_tokens: int
    """Most tokens of output, those that an earlier engine produced included."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end it: the model's end-of-sequence tokens too, unless it ignores them."""
    output_token_ids: list[int] = field(default_factory=list)
    """Tokens generated; at submission those of an earlier engine, which are not delivered again."""
    channel: int = 0
    """Whose request it is: a step's tokens are handed out together for all requests of a channel."""
    label: int = 0
    """The channel's own number for the request."""
    num_prompt_logprobs: int | None = None
    """Log-probabilities of the prompt to return: None for none, else of its tokens and of so many
    alternatives to each."""
    priority: int = 0
    """Lower first, where the policy goes by it."""
    tenant: str = ""
    """Whose share it takes, where the policy goes by it."""
    cache: PrefixChain = field(default_factory=PrefixChain)
    """Its beginning in the prefix cache, and with whom it shares it."""
    deadline_s: float | None = None
    """When it ends, done or not, by the scheduler's clock."""
    num_samples: int = 1
    """How many continuations of the prompt to generate. It is the first of them itself; the sample indices of
    the others follow its own. More than one only without output yet."""

    grammar: Grammar | None = None
    """What its output must belong to, behind the output so far."""

    arrival: int = 0
    """How many requests were submitted before it."""
    arrival_s: float = 0.0
    """When it was submitted, by the scheduler's clock."""
    admitted_s: float = 0.0
    """When it ran first; this and the next two are kept by whoever observes the scheduler."""
    first_token_s: float | None = None
    """When it got its first token here."""
    latest_token_s: float | None = None
    """When it got its latest one."""
    was_admitted: bool = False
    """Whether it has run: when it waits again, it gave way to another."""
    cached_prompt_tokens: int = 0
    """Prompt tokens that it found computed when it was admitted first."""
    num_pending: int = 0
    """Tokens behind the known ones that launched steps sample for it."""
    num_foreseen: int = 0
    """Tokens that launched steps sample for it, before any that is pending, and that are known already."""
    num_settled: int = 0
    """Tokens whose full blocks were given to the prefix cache."""
    num_computed: int = 0
    """Tokens whose keys and values are in the cache, or in a launched step."""
    latest_step: int = -1
    """The last step that was planned before it gave way."""
    has_ended: bool = False
    samples: Samples = field(init=False, repr=False, compare=False)
    """It and its siblings."""
    origin: list[BlockTable] | None = None
    """The tables that hold its prompt but for the last token, if it is a sample that has not begun."""
    slot: int = NO_SLOT
    decode_row: int = NO_ROW
    """Its place in the batch of decodes."""
    tables: list[BlockTable] = field(default_factory=list)
    """One for each group of layers."""
    length_limit: int = 0
    """Known tokens at which it ends."""
    num_prompt_scored: int = 0
    """Prompt tokens whose log-probabilities were delivered, the first one (which has none) not counted."""

    @property
    def capacity(self) -> int:
        """Tokens that fit into its blocks; the groups of layers that see the least get theirs last."""
        return self.tables[-1].capacity

    @property
    def num_tokens(self) -> int:
        """Known tokens."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_to_go(self) -> int:
        """Tokens still to compute, pending ones included."""
        num_known = len(self.prompt_token_ids) + len(self.output_token_ids)
        return num_known + self.num_pending - self.num_computed

    @property
    def must_wait(self) -> bool:
        """Whether nothing can be planned for it before a pending token is known, because it is its last."""
        return self.num_pending > 0 and self.num_tokens + self.num_pending >= self.length_limit

    @property
    def awaits_sample(self) -> bool:
        """Whether the token that the oldest step in flight samples for it, if any, is one to look at."""
        return not self.has_ended and not self.num_foreseen

    @property
    def takes_forced_tokens(self) -> bool:
        """Whether what its grammar leaves no choice about need not be sampled: nothing is to be told about
        those tokens, nothing that the sampler keeps depends on them, and nothing else may withhold them."""
        sampling = self.sampling
        return not (
            sampling.num_logprobs is not None
            or sampling.has_penalties
            or sampling.bad_words
            or sampling.allowed_token_ids
            or sampling.min_tokens
        )

    @property
    def needs_all_prompt_logits(self) -> bool:
        """Whether log-probabilities of its prompt are due: then no prompt token after those that were scored
        may be taken from a cache without being computed."""
        return (
            self.num_prompt_logprobs is not None and self.num_prompt_scored < len(self.prompt_token_ids) - 1
        )

    def scored_prompt(self, start: int, end: int) -> ScoredPrompt | None:
        """The log-probabilities of the prompt that computing positions `start` to `end` can tell, less those
        that were delivered already."""
        first = max(start, self.num_prompt_scored)
        last = min(end, len(self.prompt_token_ids) - 1)
        if self.num_prompt_logprobs is None or first >= last:
            return None
        return ScoredPrompt(first, self.prompt_token_ids[first + 1 : last + 1], self.num_prompt_logprobs)

    def tokens(self, start: int, end: int) -> list[int]:
        """Known tokens from position `start` up to, not including, `end`."""
        num_prompt = len(self.prompt_token_ids)
        if end <= num_prompt:
            return self.prompt_token_ids[start:end]
        if start >= num_prompt:
            return self.output_token_ids[start - num_prompt : end - num_prompt]
        return self.prompt_token_ids[start:] + self.output_token_ids[: end - num_prompt]

    @property
    def stop_token_id(self) -> int | None:
        """Its latest token, if that is one of its stop tokens."""
        latest = self.output_token_ids[-1] if self.output_token_ids else None
        return latest if latest in self.stop_token_ids else None

    def finish_reason(self) -> FinishReason | None:
        """Whether its latest token ends it, and why."""
        output = self.output_token_ids
        if output and output[-1] in self.stop_token_ids:
            return FinishReason.STOP
        if self.grammar is not None and self.grammar.is_finished:
            return FinishReason.STOP
        if len(self.prompt_token_ids) + len(output) >= self.length_limit:
            return FinishReason.LENGTH
        return None
