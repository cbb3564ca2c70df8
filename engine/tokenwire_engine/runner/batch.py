"""From a step plan to the arrays of a forward pass.

Rows with one token (decodes, mostly) come first, as the attention kernels want them; what is sampled keeps
the plan's order. Everything per token is numpy over the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.models.batch import CacheView, ForwardBatch
from tokenwire_engine.runner.block_tables import BlockTables
from tokenwire_engine.runner.decodes import SteadyRows, steady_rows
from tokenwire_engine.scheduler.plan import PENDING, ScoredPrompt, StepPlan
from tokenwire_kernels import AttentionBatch


@dataclass(slots=True)
class StepBatch:
    """One step's batch on the host."""

    inputs: dict[str, NDArray[Any]]
    """What the forward pass reads, by name."""
    pending: dict[str, NDArray[Any]]
    """Which of its tokens only the device knows; empty when the host knows all."""
    arrays: dict[str, NDArray[Any]]
    """What else the device needs."""
    num_decodes: int
    max_query_len: int
    max_context_len: int
    sampled_slots: list[int]
    """Slots that yield a token, in the plan's order."""
    sampled_positions: NDArray[np.int64]
    """The place in its sequence of each of those tokens."""
    samples_all: bool
    """Whether every token of the batch is the last of a row that samples, in this order."""
    scored: list[ScoredPrompt]
    """Prompt tokens to be scored, in the plan's order."""

    def on_device(self, sent: dict[str, Tensor], tables: BlockTables) -> ForwardBatch:
        """The forward pass's view of its inputs once they were sent."""
        rows = tables.rows(sent["slots"], self.max_context_len)
        views = [
            CacheView(
                cache_slots,
                AttentionBatch(
                    block_tables=block_tables,
                    query_starts=sent["query_starts"],
                    context_lens=sent["context_lens"],
                    max_query_len=self.max_query_len,
                    max_context_len=self.max_context_len,
                    num_decodes=self.num_decodes,
                ),
            )
            for cache_slots, block_tables in zip(sent["cache_slots"], rows, strict=True)
        ]
        return ForwardBatch(sent["token_ids"], sent["positions"], views)


def assemble(plan: StepPlan, tables: BlockTables, steady: SteadyRows | None = None) -> StepBatch:
    """Lay a plan's rows out as a flat batch.

    Args:
        tables: they hold the rows' blocks already.
        steady: the plan's `decodes` as arrays, where there are any yet.
    """
    scheduled = plan.scheduled
    steady = steady or steady_rows(plan.decodes)
    num_steady = len(steady.slots)
    plan_lengths = np.array([1] * num_steady + [len(row.token_ids) for row in scheduled], dtype=np.int64)
    plan_slots = np.append(steady.index, np.array([row.slot for row in scheduled], dtype=np.int64))
    starts_of_others = np.array([row.start for row in scheduled], dtype=np.int64)
    plan_starts = np.append(steady.bases + plan.decodes.shift, starts_of_others)
    samples = np.array([True] * num_steady + [row.samples for row in scheduled], dtype=bool)

    order = np.argsort(plan_lengths > 1, kind="stable")
    lengths, slots, starts = plan_lengths[order], plan_slots[order], plan_starts[order]
    num_tokens = int(lengths.sum())
    query_starts = np.zeros(len(order) + 1, dtype=np.int32)
    np.cumsum(lengths, out=query_starts[1:])
    # A token's position is its row's start plus its place in the row.
    positions = np.arange(num_tokens) + np.repeat(starts - query_starts[:-1], lengths)
    context_lens = (starts + lengths).astype(np.int32)

    token_slots = np.repeat(slots, lengths)
    token_ids = np.full(num_tokens, PENDING, dtype=np.int64)
    token_ids[num_steady:] = list(
        chain.from_iterable(scheduled[index].token_ids for index in order[num_steady:] - num_steady)
    )

    last_tokens = np.empty(len(order), dtype=np.int64)
    last_tokens[order] = query_starts[1:] - 1
    sampled_slots = plan_slots[samples]
    num_decodes = int(np.count_nonzero(lengths == 1))
    return StepBatch(
        inputs={
            "token_ids": token_ids,
            "positions": positions,
            "cache_slots": tables.cache_slots(token_slots, positions),
            "slots": slots,
            "query_starts": query_starts,
            "context_lens": context_lens,
        },
        pending=_pending_arrays(token_ids, token_slots),
        arrays={
            "sampled_tokens": last_tokens[samples],
            "sampled_slots": sampled_slots,
        }
        | _scored_arrays(plan, query_starts[:-1], order),
        num_decodes=num_decodes,
        max_query_len=int(lengths.max()),
        max_context_len=int(context_lens.max()),
        sampled_slots=sampled_slots.tolist(),
        sampled_positions=(plan_starts + plan_lengths)[samples],
        scored=[row.scored for row in scheduled if row.scored],
        samples_all=num_decodes == len(order) and bool(samples.all()),
    )


def fill_pending(token_ids: Tensor, sent: dict[str, Tensor], latest_tokens: Tensor) -> None:
    """Put the tokens that only the device knows into a batch's `token_ids`.

    Args:
        sent: `StepBatch.pending`, on the device.
        latest_tokens: int64 `[num_slots]`: the token that was sampled last for each slot.
    """
    if "pending_tokens" in sent:
        sampled_before = latest_tokens.index_select(0, sent["pending_slots"])
        token_ids.index_copy_(0, sent["pending_tokens"], sampled_before)


def _pending_arrays(token_ids: NDArray[np.int64], slots: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Which of the batch's tokens only the device knows, and the slots for which it sampled them; empty when
    the host knows all."""
    (places,) = np.where(token_ids == PENDING)
    return {"pending_tokens": places, "pending_slots": slots[places]} if len(places) else {}


def _scored_arrays(
    plan: StepPlan, first_tokens: NDArray[np.int32], order: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Which of the batch's tokens score a prompt's next token, and that token; empty when none does.

    Args:
        first_tokens: where in the batch each row begins, rows in the batch's order.
        order: of the plan's rows in the batch.
    """
    scheduled = plan.scheduled
    if not any(row.scored for row in scheduled):
        return {}
    begin = np.empty(len(order), dtype=np.int64)
    begin[order] = first_tokens
    places = [
        np.arange(len(row.scored.token_ids)) + begin[index] + row.scored.start - row.start
        for index, row in enumerate(scheduled, start=len(plan.decodes.slots))
        if row.scored
    ]
    targets = [row.scored.token_ids for row in scheduled if row.scored]
    return {
        "scoring_tokens": np.concatenate(places),
        "scored_token_ids": np.fromiter(chain.from_iterable(targets), dtype=np.int64),
    }
