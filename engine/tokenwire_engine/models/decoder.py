"""The decoder: every family's model, assembled from its `Architecture`.

There are two forms: one of layers that are tensors and operators, which runs everywhere, and one for CPUs
with native kernels, where a step is one call (`host_decoder.py`). In the first, the residual stream is one
buffer, which each block normalizes in its first product and adds to in its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.layers.attention import load_attention
from tokenwire_engine.layers.embedding import Embedding, load_embeddings
from tokenwire_engine.layers.matmul import Linear
from tokenwire_engine.layers.mlp import load_mlp
from tokenwire_engine.layers.norm import load_norm
from tokenwire_engine.layers.rotary import RotaryTable, rotary_table
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.batch import ForwardBatch
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.models.host_decoder import load_host_decoder
from tokenwire_engine.models.layers import DecoderLayer, Layers, join_layers
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import Kernels, LayerCache, RowNorm


class Decoder(Protocol):
    """A loaded model.

    Example:
        hidden = decoder.forward(batch, caches)           # [num_tokens, hidden_size]
        logits = decoder.logits(hidden[last_of_each])     # [num_rows, vocab_size]
    """

    @property
    def embedding(self) -> Embedding: ...

    @property
    def rotary(self) -> RotaryTable: ...

    @property
    def hidden_dtype(self) -> torch.dtype:
        """Of the hidden states."""

    def forward(self, batch: ForwardBatch, caches: Sequence[LayerCache]) -> Tensor:
        """The hidden states of the batch's tokens after the last layer, not yet normalized.

        Writes the tokens' keys and values into `caches` (one per layer) on the way.
        """

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Hidden states `[num_rows, hidden_size]` to logits `[num_rows, vocab_size]`, in the format that they
        are computed in; written to `out`, which is float32, where it is given."""


@dataclass(slots=True, frozen=True)
class LayeredDecoder:
    """A decoder of layers on whichever device the tensors lie. See `Decoder`."""

    embedding: Embedding
    layers: Layers
    final_norm: RowNorm
    lm_head: Linear
    rotary: RotaryTable

    @property
    def hidden_dtype(self) -> torch.dtype:
        """See `Decoder.hidden_dtype`."""
        return self.embedding.weight.dtype

    def forward(self, batch: ForwardBatch, caches: Sequence[LayerCache]) -> Tensor:
        """See `Decoder.forward`."""
        residual = self.embedding(batch.token_ids)
        self.layers(residual, batch, caches)
        return residual

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Decoder.logits`."""
        logits = self.lm_head(hidden, norm=self.final_norm)
        return logits if out is None else out.copy_(logits)


def load_decoder(
    reader: WeightReader,
    architecture: Architecture,
    num_positions: int,
    kernels: Kernels,
    shard: Shard,
    quantization: str | None = None,
) -> Decoder:
    """Read a model's parameters.

    Args:
        num_positions: the longest sequence that it will see.
        quantization: a scheme that weights are rounded to while they are read.

    Raises:
        ModelError: a tensor is missing or has the wrong shape or dtype; or nothing here computes with the
            scheme.
    """
    if kernels.native is not None and shard.size == 1:
        return load_host_decoder(reader, architecture, num_positions, kernels.native, quantization)
    if quantization is not None:
        raise ModelError(
            f"--quantization is {quantization}, for which there are kernels on a CPU only, where the native "
            "ones were compiled; leave it out"
        )
    return _load_layered_decoder(reader, architecture, num_positions, kernels, shard)


def _load_layered_decoder(
    reader: WeightReader, architecture: Architecture, num_positions: int, kernels: Kernels, shard: Shard
) -> LayeredDecoder:
    names = architecture.names
    embedding, lm_head = load_embeddings(reader, architecture, kernels)
    layers = [
        DecoderLayer(
            attention=load_attention(reader, shard, architecture, layer, kernels),
            mlp=load_mlp(reader, shard, architecture, layer, kernels),
        )
        for layer in range(architecture.num_layers)
    ]
    final_norm = load_norm(reader, names.final_norm, architecture.hidden_size, architecture.norm_eps)
    # A tied checkpoint may hold the matrix twice, and old ones hold the rotary frequencies.
    reader.finish(ignored=(f"{names.lm_head}.weight", "rotary_emb.inv_freq"))
    rotary = rotary_table(architecture.rotary, architecture.head_dim, num_positions, reader.device)
    return LayeredDecoder(
        embedding=embedding,
        layers=join_layers(layers, architecture, rotary, kernels),
        final_norm=final_norm,
        lm_head=lm_head,
        rotary=rotary,
    )
