"""The decoder on a CPU with native kernels: every weight packed once, every step one call.

It computes what `LayeredDecoder` does, from the same `Architecture`. Weights go from the mapped checkpoint
straight into the order that the kernels stream; norms, biases and the residual stream are float32 whatever
the weights are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_engine.layers.embedding import Embedding
from tokenwire_engine.layers.rotary import RotaryTable, rotary_table
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.batch import ForwardBatch
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.quantization.rounding import quantize_natively
from tokenwire_engine.quantization.schemes import SCHEMES
from tokenwire_engine.weights.reader import Piece, WeightReader
from tokenwire_kernels import LayerCache
from tokenwire_kernels.cpu import (
    Context,
    DecoderWeights,
    DecodingRows,
    Format,
    FusedDecoder,
    LayerWeights,
    PackedMatrix,
    PreparedDecodes,
)

ROWS_AT_ONCE = 8192
"""Rows of a matrix that are quantized together, so that little memory is needed beside the result."""


@dataclass(slots=True, frozen=True)
class HostDecoder:
    """A loaded model. See `Decoder`."""

    embedding: Embedding
    rotary: RotaryTable
    fused: FusedDecoder

    @property
    def hidden_dtype(self) -> torch.dtype:
        """See `Decoder.hidden_dtype`."""
        return torch.float32

    def forward(self, batch: ForwardBatch, caches: Sequence[LayerCache]) -> Tensor:
        """See `Decoder.forward`."""
        return self.fused.forward(batch.token_ids, batch.positions, batch.views, caches)

    def prepare(self, rows: DecodingRows, caches: Sequence[LayerCache]) -> PreparedDecodes:
        """Steps of rows that decode, to be run one after the other."""
        return self.fused.prepare(rows, caches)

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Decoder.logits`."""
        logits = self.fused.logits(hidden)
        return logits if out is None else out.copy_(logits)


def weight_format(dtype: torch.dtype, quantization: str | None) -> Format:
    """How the kernels keep a model's matrices."""
    if quantization is None:
        return Format(str(dtype).removeprefix("torch."))
    scheme = SCHEMES[quantization]
    return Format(scheme.name, scheme.group_size)


def load_host_decoder(
    reader: WeightReader,
    architecture: Architecture,
    num_positions: int,
    context: Context,
    quantization: str | None,
) -> HostDecoder:
    """Read and pack a model's parameters; `quantization` names a scheme, None keeps the reader's dtype.

    Raises:
        ModelError: a tensor is missing or has the wrong shape or dtype, or is to be quantized and holds
            NaN or infinity.
    """
    names = architecture.names
    packer = _Packer(reader, context, weight_format(reader.dtype, quantization))
    shape = (architecture.vocab_size, architecture.hidden_size)
    embedding = reader.views(Piece(f"{names.embedding}.weight", shape))[0].contiguous()
    lm_head = names.embedding if architecture.tied_embeddings else names.lm_head
    rotary = rotary_table(architecture.rotary, architecture.head_dim, num_positions, reader.device)
    weights = DecoderWeights(
        num_heads=architecture.num_heads,
        num_kv_heads=architecture.num_kv_heads,
        head_dim=architecture.head_dim,
        eps=architecture.norm_eps,
        attention_scale=architecture.attention_scale,
        soft_cap=architecture.attention_soft_cap,
        embedding=embedding,
        cos=rotary.cos,
        sin=rotary.sin,
        final_norm=packer.vector(f"{names.final_norm}.weight", architecture.hidden_size),
        lm_head=packer.matrix([lm_head], [architecture.vocab_size], architecture.hidden_size),
        layers=[_load_layer(packer, architecture, layer) for layer in range(architecture.num_layers)],
    )
    reader.finish(ignored=(f"{names.lm_head}.weight", "rotary_emb.inv_freq"))
    return HostDecoder(Embedding(embedding), rotary, FusedDecoder(context, weights))


def packed_bytes(architecture: Architecture, form: Format) -> int:
    """Memory that the packed matrices take, but for padding; compact ones take a quarter less."""
    bits = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0, "int8": 8.0, "int4": 4.0}[form.name]
    if form.group:
        bits += (16.0 if form.name == "int4" else 32.0) / form.group
    hidden, q_size, kv_size = architecture.hidden_size, architecture.q_size, architecture.kv_size
    layer = hidden * (2 * q_size + 2 * kv_size + 3 * architecture.intermediate_size)
    return int((architecture.num_layers * layer + architecture.vocab_size * hidden) * bits / 8)


@dataclass(slots=True, frozen=True)
class _Packer:
    """Reads parameters and brings them into the kernels' form."""

    reader: WeightReader
    context: Context
    form: Format

    def matrix(
        self, names: Sequence[str], out_features: Sequence[int], in_features: int, *, is_paired: bool = False
    ) -> PackedMatrix:
        """Several projections of the same input as one matrix, by their names without ".weight"."""
        is_temporary = self.form.name == "bfloat16"  # until it is compacted
        packed = PackedMatrix(
            self.context,
            sum(out_features),
            in_features,
            self.form,
            is_paired=is_paired,
            is_temporary=is_temporary,
        )
        first_row = 0
        for name, rows in zip(names, out_features, strict=True):
            (weight,) = self.reader.views(Piece(f"{name}.weight", (rows, in_features)))
            if self.form.name in SCHEMES:
                self._pack_quantized(packed, first_row, weight.contiguous(), f"{name}.weight")
            else:
                packed.pack(first_row, weight.contiguous())
            first_row += rows
        return packed.compacted()

    def _pack_quantized(self, packed: PackedMatrix, first_row: int, weight: Tensor, name: str) -> None:
        """
        Raises:
            ModelError: the weight holds NaN or infinity, which the codes would hide from whoever looks at the
                logits.
        """
        for rows in torch.split(weight, ROWS_AT_ONCE):
            if not (rows.sum().isfinite() or rows.isfinite().all()):  # a sum costs little, but may overflow
                raise ModelError(f"{name} holds NaN or infinity; download the checkpoint again")
            quantized = quantize_natively(rows, SCHEMES[self.form.name], self.context)
            packed.pack_codes(first_row, quantized.codes, quantized.scales)
            first_row += len(rows)

    def vector(self, name: str, *sizes: int) -> Tensor:
        """A norm's weight in float32."""
        return self.reader.views(Piece(name, sizes))[0].float().contiguous()

    def biases(self, names: Sequence[str], sizes: Sequence[int], wanted: bool) -> Tensor | None:
        """The biases of several projections, side by side, in float32."""
        if not wanted:
            return None
        pieces = [Piece(f"{name}.bias", (size,)) for name, size in zip(names, sizes, strict=True)]
        return torch.cat([bias.float() for bias in self.reader.views(*pieces)])


def _load_layer(packer: _Packer, architecture: Architecture, layer: int) -> LayerWeights:
    names, hidden = architecture.names, architecture.hidden_size
    prefix = names.layer.format(layer)
    q, k, v, o = (prefix + name for name in (names.q, names.k, names.v, names.o))
    gate, up, down = (prefix + name for name in (names.gate, names.up, names.down))
    qkv_sizes = [architecture.q_size, architecture.kv_size, architecture.kv_size]
    inner = architecture.intermediate_size
    head_dim, qk_norm = architecture.head_dim, architecture.qk_norm
    return LayerWeights(
        attention_norm=packer.vector(f"{prefix}{names.attention_norm}.weight", hidden),
        mlp_norm=packer.vector(f"{prefix}{names.mlp_norm}.weight", hidden),
        q_norm=packer.vector(f"{prefix}{names.q_norm}.weight", head_dim) if qk_norm else None,
        k_norm=packer.vector(f"{prefix}{names.k_norm}.weight", head_dim) if qk_norm else None,
        qkv=packer.matrix([q, k, v], qkv_sizes, hidden),
        o=packer.matrix([o], [hidden], architecture.q_size),
        gate_up=packer.matrix([gate, up], [inner, inner], hidden, is_paired=True),
        down=packer.matrix([down], [hidden], inner),
        qkv_bias=packer.biases([q, k, v], qkv_sizes, architecture.qkv_bias),
        o_bias=packer.biases([o], [hidden], architecture.o_bias),
        gate_up_bias=packer.biases([gate, up], [inner, inner], architecture.mlp_bias),
        down_bias=packer.biases([down], [hidden], architecture.mlp_bias),
        window=architecture.windows[layer],
        group=architecture.kv_group(layer),
    )
