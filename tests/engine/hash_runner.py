"""A runner whose next token is a hash of all tokens before it, read back through the block tables.

Instead of keys and values its cache holds token IDs, and the group of layers that they are there for. A plan
that skips a token, computes one twice, writes to a block that two requests share, shares one that holds other
tokens or loses one is caught, or changes what is read back, and so the tokens that come out.
"""

from __future__ import annotations

import math
import threading
import zlib
from array import array
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.engine.grammars import allowed_by
from tests.patience import PATIENCE_S
from tokenwire_engine.kv_cache.block_table import num_out_of_sight
from tokenwire_engine.runner.base import ModelInfo
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import PENDING, StepPlan, StepResult, TokenMasks

VOCAB_SIZE = 1000
EOS_TOKEN_ID = 2


def next_token(tokens: list[int], sample: int = 0) -> int:
    """The token after these; never one of the first ten, the end of sequence among them."""
    return 10 + zlib.crc32(array("I", tokens).tobytes(), sample) % (VOCAB_SIZE - 10)


def next_allowed(tokens: list[int], sample: int, allowed: Collection[int]) -> int:
    """The token after these, or the first one behind it that is allowed."""
    token = next_token(tokens, sample)
    return next(other for other in (*range(token, VOCAB_SIZE), *range(token)) if other in allowed)


def continuation(prompt: list[int], count: int, sample: int = 0) -> list[int]:
    """The `count` tokens that follow a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, sample))
    return tokens[len(prompt) :]


def model_info(**changes: object) -> ModelInfo:
    """A small model; keyword arguments change it."""
    values: dict[str, object] = {
        "name": "hash-model",
        "checkpoint": Path("."),
        "architecture": "HashForCausalLM",
        "dtype": "uint32",
        "kv_cache_dtype": "uint32",
        "device": "cpu",
        "vocab_size": VOCAB_SIZE,
        "max_model_len": 256,
        "eos_token_ids": (EOS_TOKEN_ID,),
        "num_parameters": 1,
        "block_size": 16,
        "num_blocks": 64,
        "max_step_tokens": 64,
        "windows": (0,),
        "num_host_blocks": 0,
        "default_sampling": SamplingParams(temperature=0.5),
    }
    return ModelInfo(**(values | changes))  # type: ignore[arg-type]


@dataclass
class _Slot:
    tokens: list[int]
    sample: int
    tables: list[list[int]]
    """Its blocks in each group of layers."""
    num_hidden: list[int]
    """In each group, the blocks at the beginning that are out of sight."""
    computed: int | None = None
    """None: what was in the cache before it is not known yet."""

    @property
    def seen(self) -> list[int]:
        """Its blocks that are not out of sight."""
        return [
            block
            for blocks, hidden in zip(self.tables, self.num_hidden, strict=True)
            for block in blocks[hidden:]
        ]


class HashRunner:
    """Executes plans and asserts that each is sound.

    Attributes:
        fail_next: raised by the next `launch`, once.
        fail_constrain: raised by the next `constrain`, once.
        fail_collect: raised by the next `collect`, once.
        steps: plans executed.
        takes_forced: whether plans may have tokens that were not sampled behind those that were.
        constrained: by step that had constrained tokens, of how many its masks told.
    """

    def __init__(self, info: ModelInfo | None = None) -> None:
        self.info = info or model_info()
        self.fail_next: Exception | None = None
        self.fail_constrain: Exception | None = None
        self.fail_collect: Exception | None = None
        self.takes_forced = False
        self.steps = 0
        self._permits = math.inf
        self._is_held_up = False
        """Whether a result is waited for that does not come yet."""
        self._permits_changed = threading.Condition()
        self._slots: dict[int, _Slot] = {}
        self._holders: Counter[int] = Counter()
        nothing = (-1, -1)
        self._cache = [[nothing] * self.info.block_size for _ in range(self.info.num_blocks)]
        """By block: the group and the token of each place."""
        self._host: dict[int, list[tuple[int, int]]] = {}
        self.constrained: dict[int, int] = {}
        self._results: deque[StepResult] = deque()
        self._unsampled: StepPlan | None = None
        self._after_failure = False

    def warm_up(self) -> None:
        pass

    def pin_thread(self) -> None:
        pass

    def close(self) -> None:
        pass

    def launch(self, plan: StepPlan) -> None:
        assert self._unsampled is None or self._after_failure, "a step goes without its masks"
        self._unsampled = None
        if self.fail_next is not None:
            error, self.fail_next, self._after_failure = self.fail_next, None, True
            raise error
        for slot in plan.released:
            gone = self._slots.pop(slot, None)
            assert gone is not None or self._after_failure, f"slot {slot} released twice"
            self._holders.subtract(gone.seen if gone is not None else ())
        self._after_failure = False
        for admission in plan.admitted:
            assert admission.slot not in self._slots, f"slot {admission.slot} admitted twice"
            tokens = admission.prompt_token_ids + admission.output_token_ids
            groups = self.info.windows
            self._slots[admission.slot] = _Slot(
                tokens, admission.sampling.sample_index, [[] for _ in groups], [0] * len(groups)
            )
        for slot in self._slots.values():
            if slot.computed is not None:
                self._slide_windows(slot, slot.computed)
        rows = plan.rows()
        for row in rows:
            self._slide_windows(self._slots[row.slot], row.start)
        for source, target in plan.host_moves.out:
            assert not self._holders[source], "a block that somebody holds is evicted"
            self._host[target] = list(self._cache[source])
        for source, target in plan.host_moves.back:
            assert not self._holders[target], "a block that somebody holds is overwritten"
            self._cache[target] = list(self._host[source])
        for source, target in plan.copies:
            assert not self._holders[target], "a block that somebody holds is copied to"
            self._cache[target] = list(self._cache[source])
        slots = [row.slot for row in rows]
        assert len(set(slots)) == len(slots), "a slot is scheduled twice"
        assert 0 < plan.num_tokens <= self.info.max_step_tokens
        for row in rows:
            slot = self._slots[row.slot]
            if row.new_blocks:
                self._append(slot, row.new_blocks)
            if slot.computed is None:
                slot.computed = row.start
                assert self._read_back(slot) == slot.tokens[: row.start], "a shared block holds other tokens"
            assert row.start == slot.computed, f"slot {row.slot} starts at {row.start}, not {slot.computed}"
            assert row.token_ids, f"slot {row.slot} has nothing to compute"
            for position, token in enumerate(row.token_ids, start=row.start):
                if self.takes_forced and token != PENDING and position >= len(slot.tokens) - 1:
                    slot.tokens[position:] = [token]  # whatever was sampled in its place
                assert token in (slot.tokens[position], PENDING)
                token = slot.tokens[position]
                for group, blocks in enumerate(slot.tables):
                    block = blocks[position // self.info.block_size]
                    assert self._holders[block] == 1, "a block that others hold, too, is written to"
                    self._cache[block][position % self.info.block_size] = (group, token)
            slot.computed += len(row.token_ids)
            knows_all = slot.computed == len(slot.tokens)
            assert row.samples == knows_all or (self.takes_forced and knows_all)
        self.steps += 1
        if plan.constrained:
            self._unsampled = plan
        else:
            self._sample(plan, {})

    def constrain(self, masks: TokenMasks) -> None:
        plan, self._unsampled = self._unsampled, None
        if self.fail_constrain is not None:
            error, self.fail_constrain, self._after_failure = self.fail_constrain, None, True
            raise error
        assert plan is not None, "masks for a step that has none to come"
        assert not self._results, "the steps before it are not collected"
        assert set(masks.rows) <= set(plan.constrained)
        self.constrained[plan.step] = len(masks.rows)
        size = len(masks.bits) // max(1, len(masks.rows))
        pieces = (bytes(masks.bits[size * index : size * (index + 1)]) for index in range(len(masks.rows)))
        self._sample(plan, dict(zip(masks.rows, map(allowed_by, pieces), strict=True)))

    def _sample(self, plan: StepPlan, allowed: dict[int, Collection[int]]) -> None:
        result = StepResult(plan.step, [], [])
        for index, row in enumerate(row for row in plan.rows() if row.samples):
            slot = self._slots[row.slot]
            tokens = self._read_back(slot)
            token = (
                next_allowed(tokens, slot.sample, allowed[index])
                if index in allowed
                else next_token(tokens, slot.sample)
            )
            slot.tokens.append(token)
            result.slots.append(row.slot)
            result.token_ids.append(token)
        self._results.append(result)

    def collect(self) -> StepResult:
        self._take_permit()
        if self.fail_collect is not None:
            error, self.fail_collect, self._after_failure = self.fail_collect, None, True
            self._results.clear()
            raise error
        return self._results.popleft()

    def hold(self) -> None:
        """Let steps take for ever, the next one first: their results do not come."""
        self._permit(0)

    def allow(self, steps: int) -> None:
        """Let so many more steps be done."""
        with self._permits_changed:
            self._permit(self._permits + steps)

    def resume(self) -> None:
        """Let all steps be done."""
        self._permit(math.inf)

    def until_held_up(self) -> None:
        """Return when somebody waits for a step that is not let be done."""
        with self._permits_changed:
            assert self._permits_changed.wait_for(lambda: self._is_held_up, timeout=PATIENCE_S)

    def _permit(self, steps: float) -> None:
        with self._permits_changed:  # which may be held already
            self._permits = steps
            self._permits_changed.notify_all()

    def _take_permit(self) -> None:
        with self._permits_changed:
            self._is_held_up = self._permits <= 0
            self._permits_changed.notify_all()
            self._permits_changed.wait_for(lambda: self._permits > 0)
            self._is_held_up = False
            self._permits -= 1

    def _append(self, slot: _Slot, new_blocks: Sequence[Sequence[int]]) -> None:
        for blocks, hidden, added in zip(slot.tables, slot.num_hidden, new_blocks, strict=True):
            num_known = len(blocks)
            blocks += added
            self._holders.update(blocks[max(num_known, hidden) :])

    def _slide_windows(self, slot: _Slot, position: int) -> None:
        """Let go of the blocks that a slot does not see from a position on."""
        for group, window in enumerate(self.info.windows):
            first = num_out_of_sight(position, window, self.info.block_size)
            self._holders.subtract(slot.tables[group][slot.num_hidden[group] : first])
            slot.num_hidden[group] = first

    def _read_back(self, slot: _Slot) -> list[int]:
        """The tokens computed so far, as the groups that see them have them; those out of sight as they
        were."""
        size = self.info.block_size
        tokens = slot.tokens[: slot.computed or 0]
        for group, (blocks, hidden) in enumerate(zip(slot.tables, slot.num_hidden, strict=True)):
            for position in range(hidden * size, slot.computed or 0):
                owner, token = self._cache[blocks[position // size]][position % size]
                assert owner == group, "a block of another group of layers"
                if token != tokens[position]:
                    tokens[position] = token
        return tokens
