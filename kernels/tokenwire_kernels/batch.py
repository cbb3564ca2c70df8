"""What a step's operators know of its sequences and of a layer's cache, as plain data.

One batch of each kind exists per step and is shared by all layers. The tensors are the truth; the host
values are bounds that let an implementation choose shapes without asking the device. `memo` belongs to the
implementation: what it derives from the fields (gather indices, masks, a schedule) is derived once per step.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CACHE_SCALE_BYTES = torch.float32.itemsize
"""Behind each head in a cache of int8."""


@dataclass(slots=True, frozen=True)
class LayerCache:
    """One layer's paged keys and values: each [num_blocks, num_kv_heads, block_size, head_dim].

    Of int8 it is head_dim + `CACHE_SCALE_BYTES`: a head's codes, from -127 to 127, and behind them the bytes
    of its own scale, float32: a key is its codes times that. So rounding follows each token, and a block is
    still one piece of memory.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    """float32 [num_kv_heads]: a key is what is stored times its head's scale. None: 1. A cache of fp8
    (float8_e4m3fn, at most 448) has them so that its heads fill the format's range."""
    value_scales: Tensor | None = None
    """The same for values."""


@dataclass(slots=True, frozen=True)
class RowNorm:
    """RMS normalization of each row."""

    weight: Tensor
    """[hidden], the dtype of the rows."""
    eps: float


@dataclass(slots=True, frozen=True)
class HeadNorms:
    """RMS normalization of each head's query and key before they are rotated (QK-norm)."""

    q_weight: Tensor
    """[head_dim], the dtype of q, as is `k_weight`."""
    k_weight: Tensor
    eps: float


@dataclass(slots=True)
class AttentionBatch:
    """A flat batch of query tokens: sequence after sequence, decodes first.

    Sequences without a query, whose context is 0, fill a batch up at the end of the decodes and at the end of
    all; so do tokens behind the last query, for which nothing is computed.
    """

    block_tables: Tensor
    """int32 [num_seqs, max_blocks]: physical blocks in token order; past a context, nothing is read."""
    query_starts: Tensor
    """int32 [num_seqs + 1]: where each sequence's query tokens begin, and where the last one's end."""
    context_lens: Tensor
    """int32 [num_seqs]: tokens in the cache, this step's included. At least the number of query tokens."""
    max_query_len: int
    """No sequence has more query tokens."""
    max_context_len: int
    """No sequence has a longer context."""
    num_decodes: int
    """The first `num_decodes` sequences have one query token each, or none."""
    memo: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)


@dataclass(slots=True)
class SamplingBatch:
    """How each row of logits becomes a token. All tensors are [num_rows], on the logits' device."""

    temperatures: Tensor
    """float32; 0 is greedy."""
    top_k: Tensor
    """int32; 0 keeps every token."""
    top_p: Tensor
    """float32 in (0, 1]; 1 keeps every token."""
    min_p: Tensor
    """float32 in [0, 1]; 0 keeps every token."""
    seeds: Tensor
    """int64."""
    sample_indices: Tensor
    """int32: which of a request's parallel samples the row belongs to."""
    positions: Tensor
    """int64: the position of the token to be sampled."""
    typical_p: Tensor | None = None
    """float32 in (0, 1]; 1 keeps every token. None: every row does."""
    all_greedy: bool = False
    """Promise: every temperature is 0."""
    all_unfiltered: bool = False
    """Promise: no row has top-k, top-p or min-p (typical-p has no part in it)."""


@dataclass(slots=True, frozen=True)
class PenaltyBatch:
    """The rows of logits that are penalized. All tensors are [num_penalized], on the logits' device."""

    rows: Tensor
    """int64: of the logits; none twice."""
    counted: Tensor
    """int64: of the tables of counts."""
    repetition: Tensor
    """float32, positive; 1 changes nothing."""
    presence: Tensor
    """float32, as is `frequency`; 0 changes nothing."""
    frequency: Tensor


@dataclass(slots=True)
class DecodeRows:
    """The rows of a batch of decodes, which stay on the device from one step to the next.

    Row tensors are [num_rows], and may be the beginning of longer ones.
    """

    slots: Tensor
    """int64: which slot's request the row computes; -1: none, the row fills the batch up."""
    positions: Tensor
    """int64: the place in its sequence of the token that the row computes."""
    token_ids: Tensor
    """int64: that token."""
    context_lens: Tensor
    """int32: tokens of the sequence, that one included."""
    next_positions: Tensor
    """int64: the place of the token to be sampled."""
    step: Tensor
    """int64 [1]: steps that these rows have taken."""
