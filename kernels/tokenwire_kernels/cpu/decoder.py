"""A whole forward pass as one call: a loop over layers in Python costs more than a small model computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import byref, pointer
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenwire_kernels.batch import AttentionBatch, LayerCache
from tokenwire_kernels.cpu import library as native
from tokenwire_kernels.cpu.library import Context
from tokenwire_kernels.cpu.matrix import PackedMatrix
from tokenwire_kernels.cpu.operators import cache_shape, sequences_of


class CacheView(Protocol):
    """Where one group of layers finds a batch's keys and values."""

    @property
    def cache_slots(self) -> Tensor:
        """int64 `[num_tokens]`: block * block_size + offset where each key and value is written."""

    @property
    def attention(self) -> AttentionBatch: ...


@dataclass(slots=True, frozen=True)
class LayerWeights:
    """One layer's parameters; norms and biases in float32."""

    attention_norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    """Of each query head, as `k_norm` of each key head; None where the architecture has none."""
    k_norm: Tensor | None
    qkv: PackedMatrix
    o: PackedMatrix
    gate_up: PackedMatrix
    """Paired."""
    down: PackedMatrix
    qkv_bias: Tensor | None
    o_bias: Tensor | None
    gate_up_bias: Tensor | None
    down_bias: Tensor | None
    window: int
    group: int
    """Of layers that have the same `CacheView`."""


@dataclass(slots=True, frozen=True)
class DecoderWeights:
    """A pre-norm, gated-MLP decoder's parameters and the few numbers that say how they are used."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    attention_scale: float
    soft_cap: float
    embedding: Tensor
    """`[vocab_size, hidden_size]` in any float format: the mapped checkpoint, usually."""
    cos: Tensor
    """float32 `[num_positions, head_dim / 2]`."""
    sin: Tensor
    final_norm: Tensor
    lm_head: PackedMatrix
    layers: Sequence[LayerWeights]


class FusedDecoder:
    """Runs a decoder's layers in one native call. The residual stream is float32 whatever the weights are."""

    def __init__(self, context: Context, weights: DecoderWeights) -> None:
        self.context = context
        self.weights = weights
        vocab_size, hidden_size = weights.embedding.shape
        self._hidden_size, self._vocab_size = hidden_size, vocab_size
        self._layers = (native.Layer * len(weights.layers))(*map(_native_layer, weights.layers))
        self._model = native.Model(
            num_layers=len(weights.layers),
            hidden_size=hidden_size,
            intermediate_size=weights.layers[0].down.k,
            vocab_size=vocab_size,
            num_heads=weights.num_heads,
            num_kv_heads=weights.num_kv_heads,
            head_dim=weights.head_dim,
            num_positions=len(weights.cos),
            eps=weights.eps,
            attention_scale=weights.attention_scale,
            soft_cap=weights.soft_cap,
            embedding_dtype=native.DTYPES[weights.embedding.dtype],
            embedding=weights.embedding.data_ptr(),
            cos=weights.cos.data_ptr(),
            sin=weights.sin.data_ptr(),
            final_norm=weights.final_norm.data_ptr(),
            lm_head=pointer(weights.lm_head.native),
            layers=self._layers,
        )
        self._caches: Sequence[LayerCache] = ()
        self._native_caches: object = None

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        views: Sequence[CacheView],
        caches: Sequence[LayerCache],
    ) -> Tensor:
        """The residual stream after the last layer, float32 `[num_tokens, hidden_size]`.

        Args:
            token_ids: int64 `[num_tokens]`, as are `positions`.
            views: one for each group of layers; of the same sequences.
            caches: one for each layer; not to be changed afterwards, since what is derived from it is kept.

        Raises:
            IndexError: a token id is outside the vocabulary.
        """
        token_ids = token_ids.to(torch.int64)
        hidden = torch.empty(len(token_ids), self._hidden_size)
        native_views = [
            native.View(view.cache_slots.data_ptr(), sequences_of(view.attention, len(token_ids)))
            for view in views
        ]
        step = self._step(token_ids, positions, native_views, caches, hidden)
        outside = self.context.library.tw_forward(self.context.handle, byref(self._model), byref(step))
        self._check_token(outside, token_ids)
        return hidden

    def prepare(self, rows: DecodingRows, caches: Sequence[LayerCache]) -> PreparedDecodes:
        """Steps of rows that decode, to be run one after the other. `caches` as of `forward`."""
        num_groups, num_rows, _ = rows.block_tables.shape
        token_ids, positions, next_positions = torch.empty(3, num_rows, dtype=torch.int64)
        cache_slots = torch.empty(num_groups, num_rows, dtype=torch.int64)
        context_lens = torch.empty(num_rows, dtype=torch.int32)
        query_starts = torch.arange(num_rows + 1, dtype=torch.int32)
        native_views = [
            native.View(
                slots.data_ptr(),
                native.Sequences(
                    tables.data_ptr(),
                    tables.stride(0),
                    query_starts.data_ptr(),
                    context_lens.data_ptr(),
                    num_rows,
                    num_rows,
                ),
            )
            for slots, tables in zip(cache_slots, rows.block_tables, strict=True)
        ]
        hidden = torch.empty(num_rows, self._hidden_size)
        logits, tokens = torch.empty(num_rows, self._vocab_size), torch.empty(num_rows, dtype=torch.int64)
        step = self._step(token_ids, positions, native_views, caches, hidden)
        step.logits = logits.data_ptr()
        decodes = native.Decodes(
            slots=rows.slots.data_ptr(),
            bases=rows.bases.data_ptr(),
            latest_tokens=rows.latest_tokens.data_ptr(),
            token_ids=token_ids.data_ptr(),
            positions=positions.data_ptr(),
            next_positions=next_positions.data_ptr(),
            context_lens=context_lens.data_ptr(),
            cache_slots=cache_slots.data_ptr(),
            num_groups=num_groups,
        )

        def run(shift: int) -> None:
            outside = self.context.library.tw_decode(
                self.context.handle, byref(self._model), byref(step), byref(decodes), shift
            )
            self._check_token(outside, token_ids)

        held = (rows, caches, positions, cache_slots, context_lens, query_starts, hidden)
        return PreparedDecodes(logits, tokens, next_positions, step, held, run)

    def _step(
        self,
        token_ids: Tensor,
        positions: Tensor,
        views: Sequence[native.View],
        caches: Sequence[LayerCache],
        hidden: Tensor,
    ) -> native.Step:
        return native.Step(
            token_ids=token_ids.data_ptr(),
            positions=positions.data_ptr(),
            views=(native.View * len(views))(*views),
            caches=self._pointers_to(caches),
            shape=cache_shape(caches[0].keys),
            hidden=hidden.data_ptr(),
        )

    def _check_token(self, outside: int, token_ids: Tensor) -> None:
        """`outside`: what the library returned."""
        if outside:
            token_id = int(token_ids[outside - 1])
            raise IndexError(f"token id {token_id} is outside the vocabulary of {self._vocab_size}")

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states `[num_rows, hidden_size]` to float32 logits `[num_rows, vocab_size]`."""
        hidden = hidden if hidden.stride(-1) == 1 else hidden.contiguous()
        logits = torch.empty(len(hidden), self._vocab_size)
        self.context.library.tw_logits(
            self.context.handle,
            byref(self._model),
            hidden.data_ptr(),
            hidden.stride(0),
            len(hidden),
            logits.data_ptr(),
        )
        return logits

    def _pointers_to(self, caches: Sequence[LayerCache]) -> object:
        """Made once: every step brings the same sequence."""
        if caches is not self._caches:
            pairs = [native.Cache(cache.keys.data_ptr(), cache.values.data_ptr()) for cache in caches]
            self._native_caches = (native.Cache * len(pairs))(*pairs)
            self._caches = caches
        return self._native_caches


@dataclass(slots=True, frozen=True)
class DecodingRows:
    """Sequences that compute one token each, steps on end."""

    slots: Tensor
    """int64 `[num_rows]`."""
    bases: Tensor
    """int64 `[num_rows]`: the position of each one's token, less the number of steps made."""
    latest_tokens: Tensor
    """int64 `[num_slots]`: what a step computes of each slot."""
    block_tables: Tensor
    """int32 `[num_groups, num_rows, max_blocks]`, contiguous; may be changed in place between two steps."""


@dataclass(slots=True, frozen=True)
class PreparedDecodes:
    """Steps of the same rows, whose buffers stay where they are.

    Attributes:
        logits: float32 `[num_rows, vocab_size]`, as of the latest step.
        tokens: int64 `[num_rows]`: the most likely ones, as of the latest greedy step.
        next_positions: int64 `[num_rows]`: of the tokens to be sampled from the logits.
    """

    logits: Tensor
    tokens: Tensor
    next_positions: Tensor
    _step: native.Step
    _held: object
    """What the step points to."""
    _run: Callable[[int], None]

    def run(self, shift: int, *, is_greedy: bool) -> None:
        """Compute the logits behind the rows' latest tokens, which are at `shift` from their bases. If
        `is_greedy`, the most likely tokens are the latest ones then.

        Raises:
            IndexError: a token id is outside the vocabulary.
        """
        self._step.tokens = self.tokens.data_ptr() if is_greedy else None
        self._run(shift)


def _native_layer(layer: LayerWeights) -> native.Layer:
    def address(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    return native.Layer(
        attention_norm=address(layer.attention_norm),
        mlp_norm=address(layer.mlp_norm),
        q_norm=address(layer.q_norm),
        k_norm=address(layer.k_norm),
        qkv=pointer(layer.qkv.native),
        o=pointer(layer.o.native),
        gate_up=pointer(layer.gate_up.native),
        down=pointer(layer.down.native),
        qkv_bias=address(layer.qkv_bias),
        o_bias=address(layer.o_bias),
        gate_up_bias=address(layer.gate_up_bias),
        down_bias=address(layer.down_bias),
        window=layer.window,
        group=layer.group,
    )
