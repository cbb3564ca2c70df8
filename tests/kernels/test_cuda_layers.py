"""All layers of a decoder in one launch of CUDA C++: natively on a GPU, else emulated on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.kernels.emulation.layers import EmulatedLayers, fuse_emulated
from tests.kernels.tables import assert_close
from tokenwire_kernels import (
    AttentionBatch,
    HeadNorms,
    LayerCache,
    LayersShape,
    LayerWeights,
    RowNorm,
    reference,
)
from tokenwire_kernels.cuda.layers import SOURCE, defines, fuse_layers, plan_of
from tokenwire_kernels.cuda.module import compiled, is_available

POSITIONS = 400
SHAPES = [
    LayersShape(256, 512, 4, 2, 64, 1e-5, 0.125, 0),
    LayersShape(256, 256, 4, 1, 128, 1e-6, 0.09, 0),
    LayersShape(512, 256, 4, 4, 64, 1e-5, 0.125, 40),
    LayersShape(256, 256, 1, 1, 256, 1e-5, 0.0625, 0),
    LayersShape(256, 256, 14, 2, 128, 1e-5, 0.0884, 0),
    LayersShape(256, 512, 6, 2, 128, 1e-5, 0.0884, 0),
]
CONTEXTS = [[1], [150], [300], [5, 17], [33, 390], [129, 64]]
needs_compiler = pytest.mark.skipif(not is_available(), reason="needs NVRTC")


@dataclass
class Decoder:
    """Random layers, their caches, and a batch of decodes."""

    shape: LayersShape
    layers: list[LayerWeights]
    caches: list[LayerCache]
    batch: AttentionBatch
    cache_slots: Tensor
    residual: Tensor
    cos: Tensor
    sin: Tensor

    def fuse(self) -> EmulatedLayers:
        """Its layers as one launch."""
        fused = fuse_emulated(self.layers, self.shape, self.cos, self.sin)
        assert fused is not None
        return fused

    def run(self, fused: EmulatedLayers | None = None) -> EmulatedLayers:
        """Take the residual through the layers, wherever this runs."""
        fused = fused or self.fuse()
        assert fused.takes(self.batch, self.caches[0], len(self.residual))
        fused(self.residual, self.batch, self.cache_slots, self.caches)
        return fused


def make(
    shape: LayersShape,
    contexts: Sequence[int],
    dtype: torch.dtype,
    num_layers: int = 1,
    has_bias: bool = False,
    has_head_norms: bool = False,
    block_size: int = 16,
) -> Decoder:
    def matrix(outputs: int, inputs: int) -> Tensor:
        return (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)

    def norm(size: int) -> Tensor:
        return (1 + 0.1 * torch.randn(size)).to(dtype)

    def bias(size: int) -> Tensor | None:
        return torch.randn(size).to(dtype) if has_bias else None

    def layer() -> LayerWeights:
        head_norms = HeadNorms(norm(shape.head_dim), norm(shape.head_dim), shape.eps)
        return LayerWeights(
            attention_norm=RowNorm(norm(shape.hidden), shape.eps),
            qkv=matrix(shape.qkv_size, shape.hidden),
            qkv_bias=bias(shape.qkv_size),
            head_norms=head_norms if has_head_norms else None,
            o=matrix(shape.hidden, shape.q_size),
            o_bias=bias(shape.hidden),
            mlp_norm=RowNorm(norm(shape.hidden), shape.eps),
            gate_up=matrix(2 * shape.inner, shape.hidden),
            gate_up_bias=bias(2 * shape.inner),
            down=matrix(shape.hidden, shape.inner),
            down_bias=bias(shape.hidden),
        )

    num_seqs, blocks_each = len(contexts), -(-max(contexts) // block_size)
    num_blocks = num_seqs * blocks_each + 1
    tables = torch.randperm(num_blocks)[: num_seqs * blocks_each].view(num_seqs, -1).int()
    cache_shape = (num_blocks, shape.num_kv_heads, block_size, shape.head_dim)
    last = torch.tensor(contexts) - 1
    blocks = tables.gather(1, (last // block_size)[:, None])[:, 0]
    angles = torch.randn(POSITIONS, shape.head_dim // 2)
    return Decoder(
        shape=shape,
        layers=[layer() for _ in range(num_layers)],
        caches=[
            LayerCache(torch.randn(cache_shape).to(dtype), torch.randn(cache_shape).to(dtype))
            for _ in range(num_layers)
        ],
        batch=AttentionBatch(
            block_tables=tables,
            query_starts=torch.arange(num_seqs + 1, dtype=torch.int32),
            context_lens=torch.tensor(contexts, dtype=torch.int32),
            max_query_len=1,
            max_context_len=POSITIONS,
            num_decodes=num_seqs,
        ),
        cache_slots=blocks * block_size + last % block_size,
        residual=torch.randn(num_seqs, shape.hidden).to(dtype),
        cos=angles.cos(),
        sin=angles.sin(),
    )


def wide(norm: RowNorm) -> RowNorm:
    return RowNorm(norm.weight.double(), norm.eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *around: object) -> Tensor:
    return reference.linear(x.double(), weight.double(), None if bias is None else bias.double(), *around)


def check_layer(decoder: Decoder) -> None:
    """Each product and attention, of what the launch itself computed before, in float64."""
    shape, layer, cache = decoder.shape, decoder.layers[0], decoder.caches[0]
    count, residual = len(decoder.residual), decoder.residual.clone()
    before = [cache.keys.clone(), cache.values.clone()]
    buffers = decoder.run()._buffers
    assert buffers is not None
    qkv, activated = buffers.qkv[:count], buffers.activated[:count]
    attended = buffers.attended[:count, :, 0].to(residual.dtype)
    assert_close(qkv, linear(residual, layer.qkv, layer.qkv_bias, wide(layer.attention_norm)))

    q, k, v = (
        qkv.double()
        .view(count, -1, shape.head_dim)
        .split([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
    )
    stored = LayerCache(before[0].double(), before[1].double())
    norms = layer.head_norms
    norms = norms and HeadNorms(norms.q_weight.double(), norms.k_weight.double(), norms.eps)
    positions = decoder.batch.context_lens.long() - 1
    cos, sin = decoder.cos.double(), decoder.sin.double()
    reference.rotary_and_cache(q, k, v, cos, sin, positions, stored, decoder.cache_slots, norms)
    assert_close(cache.keys, stored.keys)
    assert torch.equal(cache.values.double(), stored.values)
    past = LayerCache(cache.keys.double(), cache.values.double())
    expected = reference.paged_attention(q, past, replace(decoder.batch), shape.scale, shape.window)
    assert_close(attended.view_as(expected), expected)

    middle = residual.double() + linear(attended, layer.o, layer.o_bias)
    # The residual in between is not to be seen: a number of it that is nearly between two may be the other.
    gated = linear(middle.to(residual.dtype), layer.gate_up, layer.gate_up_bias, wide(layer.mlp_norm), True)
    assert_close(activated / 2, gated / 2)
    assert_close(decoder.residual, middle + linear(activated, layer.down, layer.down_bias))
    assert buffers.counters.tolist() == [0, 0, 1]


@pytest.mark.parametrize("contexts", CONTEXTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_layer_agrees_with_float64(shape: LayersShape, contexts: list[int]) -> None:
    check_layer(make(shape, contexts, torch.bfloat16))


@pytest.mark.parametrize("contexts", [[1], [150]], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_a_layer_of_float16_agrees_with_float64(shape: LayersShape, contexts: list[int]) -> None:
    check_layer(make(shape, contexts, torch.float16))


@pytest.mark.parametrize("has_head_norms", [False, True], ids=["", "head-norms"])
@pytest.mark.parametrize("has_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("block_size", [16, 64])
def test_a_layer_has_biases_norms_of_heads_and_blocks_of_any_power_of_two(
    block_size: int, has_bias: bool, has_head_norms: bool
) -> None:
    for contexts in ([200], [70, 16]):
        check_layer(make(SHAPES[0], contexts, torch.bfloat16, 1, has_bias, has_head_norms, block_size))


@pytest.mark.parametrize("contexts", [[90], [40, 111]], ids=str)
def test_layers_in_one_launch_are_those_one_by_one(contexts: list[int]) -> None:
    together = make(SHAPES[0], contexts, torch.bfloat16, num_layers=5, has_bias=True)
    caches = [LayerCache(cache.keys.clone(), cache.values.clone()) for cache in together.caches]
    residual = together.residual.clone()
    for layer, cache in zip(together.layers, caches, strict=True):
        replace(together, layers=[layer], caches=[cache], residual=residual).run()
    together.run()
    assert torch.equal(together.residual, residual)
    for cache, other in zip(together.caches, caches, strict=True):
        assert torch.equal(cache.keys, other.keys)
        assert torch.equal(cache.values, other.values)


def test_launches_follow_each_other() -> None:
    """Counters are as they were, and what a launch leaves behind is not read."""
    decoder = make(SHAPES[1], [130, 7], torch.bfloat16, num_layers=2)
    first = decoder.residual.clone()
    fused = decoder.run()
    expected = decoder.residual.clone()
    for _ in range(3):
        decoder.residual.copy_(first)
        decoder.run(fused)
        assert torch.equal(decoder.residual, expected)


def test_a_row_without_a_slot_stores_nothing_and_others_are_as_without_it() -> None:
    decoder = make(SHAPES[0], [30, 1], torch.float16)
    decoder.cache_slots[1:] = -1
    decoder.batch.block_tables[1:] = 0
    cache = decoder.caches[0]
    keys, values = cache.keys.clone(), cache.values.clone()
    decoder.run()
    slot = decoder.cache_slots[0]
    for now, before in ((cache.keys, keys), (cache.values, values)):
        changed = (now != before).any(-1).any(1).nonzero().tolist()
        assert changed == [[slot // 16, slot % 16]]
    assert decoder.residual[0].isfinite().all()


def test_others_are_not_taken() -> None:
    decoder = make(SHAPES[0], [30, 4], torch.bfloat16)
    layers = decoder.fuse()
    batch, cache = decoder.batch, decoder.caches[0]
    assert layers.takes(batch, cache, 2)
    assert not layers.takes(batch, cache, 3)  # a token more than sequences
    assert not layers.takes(make(SHAPES[0], [4, 5, 6], torch.bfloat16).batch, cache, 3)
    assert not layers.takes(replace(batch, num_decodes=1), cache, 2)
    assert not layers.takes(batch, LayerCache(cache.keys.half(), cache.values.half()), 2)
    assert not layers.takes(batch, LayerCache(cache.keys[:, :, :12], cache.values[:, :, :12]), 2)
    assert not layers.takes(batch, replace(cache, key_scales=torch.ones(2)), 2)
    for other in (replace(decoder.shape, hidden=576), replace(decoder.shape, head_dim=96)):
        assert fuse_layers(decoder.layers, other, decoder.cos, decoder.sin) is None
    wide_layer = replace(decoder.layers[0], qkv=decoder.layers[0].qkv.float())
    assert fuse_layers([wide_layer], decoder.shape, decoder.cos, decoder.sin) is None


@needs_compiler
@pytest.mark.parametrize("capability", [90, 100])
@pytest.mark.parametrize("rows", [1, 2])
def test_it_compiles_for_every_generation(
    capability: int, rows: int, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = LayersShape(4096, 14336, 32, 8, 128, 1e-5, 0.09, 0)
    plan = plan_of(shape, rows, 132, 227 << 10)
    assert plan is not None
    assert compiled(SOURCE, defines(shape, plan, torch.bfloat16), capability)
