"""Rotating queries and keys, and storing keys and values."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.kernels.tables import DTYPES, HEADS, Heads, assert_close
from tokenwire_kernels import HeadNorms, LayerCache, reference, triton

_TOKENS = 5


def _angles(rotary_dim: int) -> tuple[Tensor, Tensor]:
    frequencies = 1e4 ** -(torch.arange(rotary_dim // 2) * 2 / rotary_dim)
    angles = torch.arange(64)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Each pair as a complex number, turned by its angle; in float64."""
    half = cos.shape[-1]
    x = x.double()
    turns = torch.complex(cos.double(), sin.double())[positions][:, None]
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * turns
    return torch.cat([turned.real, turned.imag, x[..., 2 * half :]], dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("share", [1.0, 0.5], ids=["whole-head", "half-of-the-head"])
def test_q_is_rotated_in_place_and_k_and_v_go_to_their_slots(
    kernels: ModuleType, dtype: torch.dtype, heads: Heads, share: float
) -> None:
    cos, sin = _angles(int(heads.head_dim * share))
    parts = [heads.num_heads, heads.num_kv_heads, heads.num_kv_heads]
    qkv = torch.randn(_TOKENS, sum(parts), heads.head_dim).to(dtype)
    q, k, v = torch.split(qkv, parts, dim=1)
    positions = torch.randint(0, 64, (_TOKENS,))
    slots = torch.randperm(3 * heads.block_size)[:_TOKENS]
    expected_q, expected_k, expected_v = (
        _rotated(q, cos, sin, positions), _rotated(k, cos, sin, positions), v.double()
    )  # fmt: skip
    caches = torch.full((2, 3, heads.num_kv_heads, heads.block_size, heads.head_dim), float("nan")).to(dtype)

    kernels.rotary_and_cache(q, k, v, cos, sin, positions, LayerCache(*caches), slots)

    assert_close(q, expected_q)
    for cache, expected in zip(caches, (expected_k, expected_v), strict=True):
        stored = cache.transpose(1, 2)[slots // heads.block_size, slots % heads.block_size]
        assert_close(stored, expected)
        assert cache.isfinite().sum() == expected.numel(), "something was written outside the slots"


def test_a_token_without_a_slot_is_rotated_and_not_stored(kernels: ModuleType) -> None:
    cos, sin = _angles(64)
    q, k, v = torch.randn(3, 2, 64), torch.randn(3, 1, 64), torch.randn(3, 1, 64)
    expected = _rotated(q, cos, sin, torch.tensor([0, 5, 9]))
    key_cache, value_cache = torch.full((2, 2, 1, 16, 64), float("nan"))
    positions, slots = torch.tensor([0, 5, 9]), torch.tensor([20, -1, -1])
    kernels.rotary_and_cache(q, k, v, cos, sin, positions, LayerCache(key_cache, value_cache), slots)
    assert_close(q, expected)
    assert key_cache.isfinite().any(dim=-1).flatten().nonzero().tolist() == [[20]]
    assert torch.equal(value_cache[1, 0, 4], v[0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [1.0, 0.5], ids=["whole-head", "half-of-the-head"])
def test_heads_are_normalized_before_they_are_rotated(
    kernels: ModuleType, dtype: torch.dtype, share: float
) -> None:
    cos, sin = _angles(int(96 * share))
    q, k, v = (torch.randn(3, heads, 96).to(dtype) for heads in (5, 2, 2))
    norms = HeadNorms((torch.rand(96) + 0.5).to(dtype), (torch.rand(96) + 0.5).to(dtype), 1e-6)
    positions, slots = torch.tensor([3, 4, 60]), torch.tensor([17, 2, 40])
    normalized = [
        reference.rms_norm(x.double(), weight.double(), norms.eps)
        for x, weight in ((q, norms.q_weight), (k, norms.k_weight))
    ]
    caches = torch.full((2, 3, 2, 16, 96), float("nan")).to(dtype)
    kernels.rotary_and_cache(q, k, v, cos, sin, positions, LayerCache(*caches), slots, norms)
    assert_close(q, _rotated(normalized[0], cos, sin, positions))
    stored = caches[:, slots // 16, :, slots % 16].transpose(0, 1)
    assert_close(stored[0], _rotated(normalized[1], cos, sin, positions))
    assert torch.equal(stored[1], v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cached", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_cache_may_have_a_format_of_its_own(
    kernels: ModuleType, dtype: torch.dtype, cached: torch.dtype
) -> None:
    cos, sin = _angles(64)
    q, k, v = (torch.randn(4, heads, 64).to(dtype) for heads in (4, 2, 2))
    positions, slots = torch.tensor([3, 4, 60, 61]), torch.tensor([17, 2, 40, 41])
    rotated = _rotated(k, cos, sin, positions)
    caches = torch.full((2, 3, 2, 16, 64), float("nan")).to(cached)
    kernels.rotary_and_cache(q, k, v, cos, sin, positions, LayerCache(*caches), slots)
    stored = caches[:, slots // 16, :, slots % 16].transpose(0, 1)
    coarser = max(dtype, cached, key=lambda each: torch.finfo(each).eps)
    assert_close(stored[0].to(coarser), rotated)
    assert_close(stored[1].to(coarser), v.double())


def test_an_fp8_cache_holds_heads_over_their_scales_and_saturates(kernels: ModuleType) -> None:
    if kernels not in (reference, triton):
        pytest.skip("a CPU's cache is never fp8")
    cos, sin = _angles(64)
    q, k, v = torch.randn(4, 4, 64).half(), torch.randn(4, 2, 64).half(), torch.randn(4, 2, 64).half()
    v[1, 1, 7] = 1e4
    positions, slots = torch.tensor([3, 4, 60, 61]), torch.tensor([17, 2, 40, 41])
    scales = torch.tensor([[0.5, 0.01], [2.0, 0.02]])
    caches = torch.zeros(2, 3, 2, 16, 64).to(torch.float8_e4m3fn)
    expected = torch.stack([_rotated(k, cos, sin, positions), v.double()])
    kernels.rotary_and_cache(q, k, v, cos, sin, positions, LayerCache(*caches, *scales), slots)
    stored = caches.double()[:, slots // 16, :, slots % 16].transpose(0, 1)
    assert stored[1, 1, 1, 7] == 448.0
    # An fp8 number has three bits after the leading one; below 2**-6, steps of 2**-9.
    wanted = (expected / scales[:, None, :, None].double()).clamp(-448, 448)
    if kernels is triton and not torch.cuda.is_available():
        # Triton's interpreter loses the carry where rounding reaches the next power of two.
        near = wanted * (1 + 2**-9)  # q and k were rounded on their way
        carried = near.to(torch.float8_e4m3fn).double().frexp().exponent > wanted.frexp().exponent
        stored, wanted = stored[~carried], wanted[~carried]
    torch.testing.assert_close(stored, wanted, rtol=2**-4 + 2**-9, atol=2**-9 + 2**-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_an_int8_cache_holds_codes_and_behind_them_the_scale_of_each_tokens_head(
    kernels: ModuleType, dtype: torch.dtype, heads: Heads
) -> None:
    if kernels is triton:
        pytest.skip("a GPU's cache is never int8")
    head_dim, block_size = heads.head_dim, heads.block_size
    cos, sin = _angles(head_dim)
    q, k, v = (
        torch.randn(_TOKENS, count, head_dim).to(dtype)
        for count in (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads)
    )
    v[1] *= 100
    v[2] = 0
    positions = torch.randint(0, 64, (_TOKENS,))
    slots = torch.randperm(3 * block_size)[:_TOKENS]
    expected = torch.stack([_rotated(k, cos, sin, positions), v.double()])
    poison = torch.tensor(float("nan")).view(1).view(torch.int8).repeat(head_dim // 4 + 1)
    caches = poison.repeat(2, 3, heads.num_kv_heads, block_size, 1)

    kernels.rotary_and_cache(q, k, v, cos, sin, positions, LayerCache(*caches), slots)

    stored = caches[:, slots // block_size, :, slots % block_size].transpose(0, 1)
    scales = stored[..., head_dim:].contiguous().view(torch.float32)
    largest = expected.abs().amax(dim=-1, keepdim=True)
    torch.testing.assert_close(scales.double() * 127, largest, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    error = (stored[..., :head_dim].double() * scales.double() - expected).abs()
    assert (error <= largest * (0.5 / 127 + 2 * torch.finfo(dtype).eps) + 1e-6).all()
    assert caches.eq(poison).all(dim=-1).sum() == caches[..., 0].numel() - 2 * _TOKENS * heads.num_kv_heads
