"""What rounding to codes costs, by torch and by the native kernels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.native import context_of, native_instruction_sets
from tokenwire_engine.quantization.rounding import dequantize, quantize, quantize_natively
from tokenwire_engine.quantization.schemes import INT4, INT8, SCHEMES, Scheme


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_weight_is_within_half_a_step_or_clipped(scheme: Scheme, data: st.DataObject) -> None:
    n, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 100))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    weight = torch.randn(n, k)
    matrix = quantize(weight, scheme)
    size = scheme.group_size or k
    steps = matrix.scales.repeat_interleave(size, dim=1)[:, :k]
    error = (dequantize(matrix, scheme) - weight).abs()
    clipped = matrix.codes.abs() >= scheme.largest
    assert ((error <= 0.501 * steps) | clipped).all()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_codes_stay_in_the_schemes_range(scheme: Scheme) -> None:
    codes = quantize(100 * torch.randn(64, 64), scheme).codes
    assert codes.dtype == torch.int8
    assert -scheme.largest - 1 <= int(codes.min()) <= int(codes.max()) <= scheme.largest


def test_what_is_quantized_already_stays_as_it_is() -> None:
    once = dequantize(quantize(torch.randn(8, 96), INT8), INT8)
    torch.testing.assert_close(dequantize(quantize(once, INT8), INT8), once)


def test_four_bits_lose_no_more_than_the_largest_weights_scale_would() -> None:
    weight = torch.randn(32, 256)
    groups = weight.view(32, -1, INT4.group_size)
    scales = groups.abs().amax(dim=-1, keepdim=True) / INT4.largest
    plain = ((groups / scales).round() * scales).view_as(weight)
    chosen = dequantize(quantize(weight, INT4), INT4)
    assert (chosen - weight).square().mean() < (plain - weight).square().mean()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_zeros_stay_zeros(scheme: Scheme) -> None:
    assert dequantize(quantize(torch.zeros(3, 70), scheme), scheme).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("instruction_set", native_instruction_sets())
def test_native_kernels_round_as_torch_does(instruction_set: str, scheme: Scheme, dtype: torch.dtype) -> None:
    weight = torch.randn(20, 150).to(dtype)
    native = dequantize(quantize_natively(weight, scheme, context_of(instruction_set)), scheme)
    lost = (native - weight.float()).square().sum(dim=1)
    torch.testing.assert_close(
        lost, (dequantize(quantize(weight, scheme), scheme) - weight.float()).square().sum(dim=1)
    )
