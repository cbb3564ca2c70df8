"""Norms whose output is rounded to 8 bits at once."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.kernels.tables import DTYPES, ROWS, assert_close
from tokenwire_kernels import reference
from tokenwire_kernels import triton as triton_kernels

FORMATS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
formats = pytest.mark.parametrize("codes_dtype", FORMATS, ids=str)


def code_step(codes: Tensor) -> Tensor:
    """Half the distance between a code and the next, which rounding to it may cost."""
    if codes.dtype == torch.int8:
        return torch.full(codes.shape, 0.5).double()
    size = codes.double().abs().clamp(min=2**-6)
    return size / size.frexp().mantissa / 32  # three bits behind the first


def misrounded(kernels: ModuleType, wanted: Tensor, codes_dtype: torch.dtype) -> Tensor:
    """Where Triton's interpreter rounds to fp8 wrongly: it loses the carry into the next power of two, and
    cuts off below 2**-6."""
    if kernels is not triton_kernels or torch.cuda.is_available() or codes_dtype == torch.int8:
        return torch.zeros(wanted.shape, dtype=torch.bool)
    # The number was rounded on its way, to more or to less.
    above = (wanted * (1 + 2**-5)).clamp(-448, 448).to(codes_dtype).double()
    below = wanted * (1 - 2**-5)
    return (above.frexp().exponent > below.frexp().exponent) | (wanted.abs() < 2**-6)


@formats
@pytest.mark.parametrize("adds", [False, True], ids=["norm", "add and norm"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "hidden"), ROWS)
def test_codes_times_scales_are_the_normalized_token_in_float64(
    kernels: ModuleType, tokens: int, hidden: int, dtype: torch.dtype, adds: bool, codes_dtype: torch.dtype
) -> None:
    x, weight = torch.randn(tokens, hidden).to(dtype), (torch.rand(hidden) + 0.5).to(dtype)
    residual = (3 * torch.randn(tokens, hidden)).to(dtype) if adds else None
    wide = None if residual is None else residual.double() + x.double()
    exact = reference.rms_norm(x.double() if wide is None else wide, weight.double(), 1e-5)

    codes, scales = kernels.rms_norm_quantize(x, weight, 1e-5, codes_dtype, residual)

    assert (codes.dtype, scales.dtype) == (codes_dtype, torch.float32)
    assert (codes.shape, scales.shape) == ((tokens, hidden), (tokens,))
    if residual is not None and wide is not None:
        assert_close(residual, wide)
    step = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    largest = exact.abs().amax(dim=1)
    torch.testing.assert_close(scales.double(), largest / FORMATS[codes_dtype], rtol=4 * step, atol=0)
    excused = misrounded(kernels, exact / scales[:, None].double(), codes_dtype)
    error = (codes.double() * scales[:, None].double() - exact).abs()
    allowed = code_step(codes) * scales[:, None].double() * 1.001 + 4 * step * exact.abs() + 1e-6
    assert ((error <= allowed) | excused).all()
    assert codes.double().abs().amax(dim=1).eq(FORMATS[codes_dtype]).all()


@formats
def test_triton_and_the_reference_give_the_same_codes(codes_dtype: torch.dtype) -> None:
    x, weight = torch.randn(40, 576), torch.rand(576) + 0.5
    codes, scales = triton_kernels.rms_norm_quantize(x, weight, 1e-5, codes_dtype)
    wanted, wanted_scales = reference.rms_norm_quantize(x, weight, 1e-5, codes_dtype)
    torch.testing.assert_close(scales, wanted_scales, rtol=1e-6, atol=0)
    y = reference.rms_norm(x, weight, 1e-5).double() / scales[:, None].double()
    differ = (codes.double() != wanted.double()) & ~misrounded(triton_kernels, y, codes_dtype)
    assert differ.double().mean() < 1e-3  # where the last bit of a sum decides


@formats
def test_a_token_of_zeros_has_the_scale_zero(kernels: ModuleType, codes_dtype: torch.dtype) -> None:
    x = torch.zeros(2, 64)
    x[1, 5] = 2.0
    codes, scales = kernels.rms_norm_quantize(x, torch.ones(64), 1e-5, codes_dtype)
    assert codes[0].double().eq(0.0).all()
    assert scales[0] == 0.0
    assert codes[1].double().tolist() == [FORMATS[codes_dtype] if n == 5 else 0.0 for n in range(64)]


def test_halves_are_rounded_to_even(kernels: ModuleType) -> None:
    """The largest number is 127 times the scale, and the others are halves of it."""
    whole = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 3.5, 126.5])
    x = whole / whole.square().mean().sqrt()
    codes, scales = kernels.rms_norm_quantize(x[None], torch.ones(8) * 2.0**-10, 0.0, torch.int8)
    exact = (x.double() * 2.0**-10 / scales.double())[None].round()
    assert codes[0, 0] == 127
    assert (codes.double() - exact).abs().max() <= 1.0


@formats
def test_rows_may_be_apart(kernels: ModuleType, codes_dtype: torch.dtype) -> None:
    wide = torch.full((3, 96), float("nan"))
    wide[:, :64] = torch.randn(3, 64)
    codes, scales = kernels.rms_norm_quantize(wide[:, :64], torch.ones(64), 1e-5, codes_dtype)
    wanted, wanted_scales = kernels.rms_norm_quantize(
        wide[:, :64].contiguous(), torch.ones(64), 1e-5, codes_dtype
    )
    assert torch.equal(codes.view(torch.uint8), wanted.view(torch.uint8))
    assert torch.equal(scales, wanted_scales)
