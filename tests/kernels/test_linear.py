"""Products with packed weights agree with float64 over what the weights were rounded to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.native import context_of, native_instruction_sets
from tokenwire_kernels.cpu import Format, PackedMatrix, linear
from tokenwire_kernels.cpu.matrix import MOST_PATCHES

SHAPES = [(1, 1), (40, 24), (96, 64), (33, 100), (100, 33), (160, 576), (17, 2304)]
"""(outputs, inputs): multiples of a vector and others, more and fewer than a panel, longer than a piece."""
NUM_ROWS = [1, 2, 3, 5, 13, 40]
FORMATS = [
    Format("float32"),
    Format("bfloat16"),
    Format("float16"),
    Format("int8"),
    Format("int8", 32),
    Format("int4", 32),
]
FLOAT32_STEP = 2e-6

pytestmark = pytest.mark.skipif(not native_instruction_sets(), reason="the native kernels were not compiled")


@pytest.fixture(params=native_instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=FORMATS, ids=lambda form: f"{form.name}-{form.group}")
def form(request: pytest.FixtureRequest) -> Format:
    return request.param


@pytest.fixture(autouse=True)
def _on_the_host() -> None:
    torch.set_default_device("cpu")


def packed(
    instruction_set: str, form: Format, n: int, k: int, is_paired: bool = False
) -> tuple[PackedMatrix, Tensor]:
    """A random matrix, packed in two pieces, and the float64 matrix that it stands for."""
    matrix = PackedMatrix(context_of(instruction_set), n, k, form, is_paired=is_paired)
    weight = torch.randn(n, k) / k**0.5
    half = n // 2
    if not form.name.startswith("int"):
        matrix.pack(0, weight[:half])
        matrix.pack(half, weight[half:])
        return matrix, weight.to(getattr(torch, form.name)).double()
    groups = -(-k // form.group) if form.group else 1
    least, most = (-128, 128) if form.name == "int8" else (-8, 8)
    codes = torch.randint(least, most, (n, k), dtype=torch.int8)
    scales = (torch.rand(n, groups) + 0.1).half().float() / (most * k**0.5)
    scales = scales.half().float()
    matrix.pack_codes(0, codes[:half], scales[:half])
    matrix.pack_codes(half, codes[half:], scales[half:])
    size = form.group or k
    return matrix, codes.double() * scales.double().repeat_interleave(size, dim=1)[:, :k]


def tolerance(instruction_set: str, form: Format, x: Tensor, weight: Tensor) -> Tensor:
    """What rounding may add up to for each output: activations are rounded where products take them so."""
    step = FLOAT32_STEP
    if form.name == "bfloat16" and instruction_set in ("avx512_bf16", "amx"):
        # Half a unit in the last of bfloat16's 8 bits, at worst: of a number just over a power of two.
        step = 2**-8
    elif form.name.startswith("int") and instruction_set in ("avx512_vnni", "avx512_bf16", "amx"):
        # Half a step of the largest activation of a group, at worst for all of the group.
        return x.abs().amax(dim=1, keepdim=True).double() / 127 * 0.51 * weight.abs().sum(dim=1)
    return step * (x.double().abs() @ weight.abs().T) + step


def assert_within(actual: Tensor, expected: Tensor, limit: Tensor) -> None:
    assert actual.isfinite().all()
    assert ((actual.double() - expected).abs() <= limit).all()


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_every_number_of_rows_agrees_with_float64(instruction_set: str, form: Format, n: int, k: int) -> None:
    matrix, weight = packed(instruction_set, form, n, k)
    bias = torch.randn(n)
    for num_rows in NUM_ROWS:
        x = torch.randn(num_rows, k)
        expected = x.double() @ weight.T + bias.double()
        assert_within(
            linear(x, matrix, bias), expected, tolerance(instruction_set, form, x, weight) + FLOAT32_STEP
        )


def test_more_rows_than_are_multiplied_at_once_agree_with_float64(instruction_set: str, form: Format) -> None:
    matrix, weight = packed(instruction_set, form, 40, 100)
    x = torch.randn(529, 100)
    assert_within(linear(x, matrix), x.double() @ weight.T, tolerance(instruction_set, form, x, weight))


def test_a_row_gets_the_same_numbers_alone_and_among_others(instruction_set: str, form: Format) -> None:
    matrix, _ = packed(instruction_set, form, 70, 700)
    x = torch.randn(300, 700)
    together = linear(x, matrix)
    for num_rows in (1, 2, 7, 9, 31, 33):
        some = torch.cat([linear(rows, matrix) for rows in x[:62].split(num_rows)])
        assert torch.equal(some, together[:62])


def test_rows_may_be_a_view_of_a_wider_tensor(instruction_set: str, form: Format) -> None:
    matrix, _ = packed(instruction_set, form, 40, 64)
    wide = torch.full((5, 100), float("nan"))
    wide[:, 10:74] = torch.randn(5, 64)
    view = wide[:, 10:74]
    assert torch.equal(linear(view, matrix), linear(view.contiguous(), matrix))


@pytest.mark.parametrize("k", [24, 576])
def test_a_normalization_in_front_is_that_of_the_reference(
    instruction_set: str, form: Format, k: int
) -> None:
    matrix, weight = packed(instruction_set, form, 50, k)
    x, norm = 3 * torch.randn(7, k), torch.rand(k)
    scale = (x.double().square().mean(dim=1, keepdim=True) + 1e-5).rsqrt()
    normalized = x.double() * scale * norm.double()
    limit = tolerance(instruction_set, form, normalized.float(), weight)
    assert_within(linear(x, matrix, norm=norm, eps=1e-5), normalized @ weight.T, 1.1 * limit)


def test_a_result_is_added_to_what_is_there(instruction_set: str, form: Format) -> None:
    matrix, _ = packed(instruction_set, form, 45, 64)
    x, residual = torch.randn(6, 64), torch.randn(6, 45)
    expected = residual + linear(x, matrix)
    assert linear(x, matrix, add_to=residual) is residual
    torch.testing.assert_close(residual, expected)


@pytest.mark.parametrize("inner", [8, 16, 41, 96])
def test_the_gate_of_a_paired_matrix_is_applied(instruction_set: str, form: Format, inner: int) -> None:
    matrix, weight = packed(instruction_set, form, 2 * inner, 64, is_paired=True)
    x, bias = torch.randn(5, 64), torch.randn(2 * inner)
    expected = x.double() @ weight.T + bias.double()
    limit = tolerance(instruction_set, form, x, weight) + FLOAT32_STEP
    assert_within(linear(x, matrix, bias), expected, limit)
    gate, up = linear(x, matrix, bias).double().chunk(2, dim=1)
    gated = linear(x, matrix, bias, silu_and_mul=True)
    torch.testing.assert_close(gated.double(), gate * gate.sigmoid() * up, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "k", "is_paired"), [(1, 1, False), (70, 700, False), (17, 2304, False), (82, 64, True)]
)
def test_a_compact_matrix_gives_the_same_numbers_to_the_bit(
    instruction_set: str, n: int, k: int, is_paired: bool
) -> None:
    matrix = packed_with_odd_exponents(instruction_set, n, k, is_paired)
    compact = matrix.compacted()
    assert compact.is_compact
    for num_rows in (*NUM_ROWS, 300):
        x = torch.randn(num_rows, k)
        assert torch.equal(linear(x, compact), linear(x, matrix))


def packed_with_odd_exponents(instruction_set: str, n: int, k: int, is_paired: bool) -> PackedMatrix:
    """Of bfloat16, with a few numbers that lie far from the others."""
    weight = torch.randn(n, k) / k**0.5
    odd = torch.rand(n, k) < MOST_PATCHES / 2
    weight[odd] *= 2.0 ** torch.randint(-100, 40, (int(odd.sum()),)).float()
    matrix = PackedMatrix(context_of(instruction_set), n, k, Format("bfloat16"), is_paired=is_paired)
    matrix.pack(0, weight)
    return matrix


def test_a_compact_matrix_takes_three_quarters_of_the_memory(instruction_set: str) -> None:
    matrix, _ = packed(instruction_set, Format("bfloat16"), 512, 1024)
    assert matrix.compacted().nbytes < 0.76 * matrix.nbytes


def test_a_matrix_of_too_many_exponents_is_not_compacted(instruction_set: str) -> None:
    matrix = PackedMatrix(context_of(instruction_set), 64, 256, Format("bfloat16"))
    matrix.pack(0, torch.randn(64, 256) * 2.0 ** torch.randint(-60, 60, (64, 256)).float())
    kept = matrix.compacted()
    assert not kept.is_compact
    x = torch.randn(3, 256)
    assert torch.equal(linear(x, kept), linear(x, matrix))


def test_what_is_no_bfloat16_is_not_compacted(instruction_set: str) -> None:
    matrix, _ = packed(instruction_set, Format("float16"), 40, 64)
    assert matrix.compacted() is matrix


def test_no_rows_give_no_rows(instruction_set: str) -> None:
    matrix, _ = packed(instruction_set, Format("float32"), 10, 8)
    assert linear(torch.empty(0, 8), matrix).shape == (0, 10)


def test_what_does_not_fit_is_refused() -> None:
    matrix, _ = packed("portable", Format("float32"), 10, 8)
    with pytest.raises(
        ValueError, match=r"float32 \[4, 8\] does not fit at row 7 of a float32 matrix \[10, 8\]"
    ):
        matrix.pack(7, torch.randn(4, 8))
    with pytest.raises(ValueError, match=r"x is torch.float32 \[2, 9\]; expected float32 \[rows, 8\]"):
        linear(torch.randn(2, 9), matrix)
    with pytest.raises(ValueError, match="int4 with a group of 0; expected a multiple of 8"):
        Format("int4")
