"""Weight matrices in the order in which the kernels stream them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from ctypes import byref, memmove
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_kernels.cpu import library as native
from tokenwire_kernels.cpu.build import INSTRUCTION_SETS
from tokenwire_kernels.cpu.library import Context


@dataclass(slots=True, frozen=True)
class Format:
    """How a matrix's elements are kept."""

    name: str
    """float32, bfloat16, float16, int8 or int4."""
    group: int = 0
    """int8 and int4: inputs that share a scale; 0 (int8 only): all inputs of an output do."""

    def __post_init__(self) -> None:
        if self.name not in native.FORMATS:
            raise ValueError(f"{self.name!r} is no format; expected one of {', '.join(native.FORMATS)}")
        if self.group % 8 or self.group < 0 or (self.name == "int4" and not self.group):
            raise ValueError(f"{self.name} with a group of {self.group}; expected a multiple of 8")


MOST_PATCHES = 1 / 512
"""Of a compact matrix's numbers. With more, its products would wait for patches longer than for memory."""


class PackedMatrix:
    """A matrix `[n, k]` in memory of its own, filled piece by piece with `pack` or `pack_codes`.

    Packing reads the source once and keeps nothing of it, so that a mapped file never becomes a second copy.
    """

    def __init__(
        self,
        context: Context,
        n: int,
        k: int,
        form: Format,
        *,
        is_paired: bool = False,
        is_temporary: bool = False,
    ) -> None:
        """
        Args:
            is_paired: the first n / 2 outputs are a gate and the others what it lets through: `linear` can
                then return silu(gate) * other.
            is_temporary: it shares no memory with other matrices, so that it is given back at once: for what
                is to be `compacted`.

        Raises:
            MemoryError: there is not so much memory.
        """
        self.context = context
        self.n, self.k, self.form, self.is_paired = n, k, form, is_paired
        self.native = native.Matrix(native.FORMATS[form.name], form.group, is_paired, 0, n, k, None, None)
        self._allocate(is_temporary=is_temporary)

    def _allocate(self, *, extra: int = 0, is_temporary: bool = False) -> None:
        """Take memory for panels and scales, and so many bytes behind them."""
        library, handle = self.context.library, self.context.handle
        panels = library.tw_panel_bytes(handle, byref(self.native))
        self.nbytes = panels + library.tw_scale_bytes(handle, byref(self.native)) + extra
        self._chunk, address = self.context.allocate(self.nbytes, is_shared=not is_temporary)
        self.native.panels, self.native.scales = address, address + panels

    @property
    def is_compact(self) -> bool:
        """Whether it holds bfloat16 in 12 bits."""
        return bool(self.native.format == native.COMPACT)

    def compacted(self) -> PackedMatrix:
        """The same matrix, its bfloat16 numbers in 12 bits each, without loss, where exponents allow it.

        Products are the same to the bit, and read three quarters of the memory. A matrix of another format is
        returned itself, and one whose exponents have too many values as it is.

        Raises:
            MemoryError: there is not so much memory.
        """
        if self.form.name != "bfloat16" or self.is_compact:
            return self
        library, handle = self.context.library, self.context.handle
        compact = copy(self)
        compact.native = native.Matrix.from_buffer_copy(self.native)
        compact.native.format = native.COMPACT
        panels = torch.empty(library.tw_scale_bytes(handle, byref(compact.native)), dtype=torch.uint8)
        num_patches = library.tw_choose_codes(handle, byref(self.native), panels.data_ptr())
        if num_patches > self.n * self.k * MOST_PATCHES:
            compact.native.format = self.native.format
            compact._allocate()
            memmove(compact.native.panels, self.native.panels, self.nbytes)
            return compact
        compact._allocate(extra=num_patches * native.PATCH_BYTES)
        memmove(compact.native.scales, panels.data_ptr(), len(panels))
        library.tw_compact(handle, byref(self.native), byref(compact.native))
        return compact

    def pack(self, first_row: int, weight: Tensor) -> None:
        """Write rows from `first_row` on. `weight` is `[rows, k]` in a float format, its rows contiguous."""
        self._expect(weight.shape[1] == self.k and weight.stride(1) == 1, first_row, weight)
        self.context.library.tw_pack(
            self.context.handle,
            byref(self.native),
            first_row,
            len(weight),
            weight.data_ptr(),
            native.DTYPES[weight.dtype],
            weight.stride(0),
        )

    def pack_codes(self, first_row: int, codes: Tensor, scales: Tensor) -> None:
        """Write rows from `first_row` on.

        Args:
            codes: int8 `[rows, k]`, contiguous; from -8 to 7 for int4.
            scales: float32 `[rows, groups]`, contiguous; one group when the format has none.
        """
        groups = -(-self.k // self.form.group) if self.form.group else 1
        self._expect(codes.shape[1] == self.k and codes.is_contiguous(), first_row, codes)
        self._expect(codes.dtype == torch.int8 and scales.dtype == torch.float32, first_row, codes)
        self._expect(scales.shape == (len(codes), groups), first_row, scales)
        self.context.library.tw_pack_codes(
            self.context.handle,
            byref(self.native),
            first_row,
            len(codes),
            codes.data_ptr(),
            scales.contiguous().data_ptr(),
        )

    def _expect(self, fits: bool, first_row: int, rows: Tensor) -> None:
        if not fits or first_row + len(rows) > self.n:
            raise ValueError(
                f"{rows.dtype} {list(rows.shape)} does not fit at row {first_row} "
                f"of a {self.form.name} matrix [{self.n}, {self.k}]"
            )


def describe_products(context: Context) -> list[tuple[str, str]]:
    """(format, how its products are computed) with the context's instruction set."""
    weakest_first = [instruction_set.name for instruction_set in INSTRUCTION_SETS]
    level = weakest_first.index(context.instruction_set)
    dots_int8 = level >= weakest_first.index("avx512_vnni")
    widened = "weights widened to float32 as they are read"
    int8 = (
        "int8 activations, one scale for each token and group, summed in integers" if dots_int8 else widened
    )
    dots_bfloat16 = level >= weakest_first.index("avx512_bf16")
    bfloat16 = "bfloat16 activations, summed in float32" if dots_bfloat16 else widened
    return [
        ("float32", "float32"),
        ("bfloat16", f"{bfloat16}; kept in 12 bits, without loss, where exponents allow it"),
        ("float16", widened),
        ("int8", int8),
        ("int4", int8),
    ]


def round_to_codes(
    context: Context, weight: Tensor, bits: int, group: int, shrinkages: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Codes and scales for `pack_codes`, each group of inputs under the scale that loses least.

    Args:
        weight: `[rows, k]` in a float format, its rows contiguous.
        bits: 8 or 4.
        group: inputs that share a scale; 0: all.
        shrinkages: what to try, as shares of the scale under which the largest weight is the largest code.
    """
    rows, k = weight.shape
    codes = torch.empty(rows, k, dtype=torch.int8)
    scales = torch.empty(rows, -(-k // group) if group else 1)
    tried = torch.tensor(shrinkages, dtype=torch.float32)
    context.library.tw_quantize(
        context.handle,
        weight.data_ptr(),
        native.DTYPES[weight.dtype],
        weight.stride(0),
        rows,
        k,
        bits,
        group,
        tried.data_ptr(),
        len(tried),
        codes.data_ptr(),
        scales.data_ptr(),
    )
    return codes, scales


def linear(
    x: Tensor,
    matrix: PackedMatrix,
    bias: Tensor | None = None,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    add_to: Tensor | None = None,
    silu_and_mul: bool = False,
) -> Tensor:
    """x Wᵀ + bias, in float32.

    Args:
        x: float32 `[rows, k]`, its rows contiguous.
        matrix: W `[n, k]`.
        bias: float32 `[n]`.
        norm: float32 `[k]`: multiply rms_norm(x, norm, eps) instead of x.
        add_to: float32 `[rows, n]`, contiguous: add the result to it, in place, and return it.
        silu_and_mul: for a paired matrix: return silu(first half) * second half, `[rows, n / 2]`.
    """
    if x.dtype != torch.float32 or x.shape[1] != matrix.k or x.stride(1) != 1:
        raise ValueError(f"x is {x.dtype} {list(x.shape)}; expected float32 [rows, {matrix.k}]")
    columns = matrix.n // 2 if silu_and_mul else matrix.n
    out = torch.empty(len(x), columns) if add_to is None else add_to
    mode = native.ADD if add_to is not None else native.SILU_AND_MUL if silu_and_mul else native.STORE
    rows = native.Input(x.data_ptr(), x.stride(0), None if norm is None else norm.data_ptr(), eps)
    if len(x):
        matrix.context.library.tw_linear(
            matrix.context.handle,
            byref(matrix.native),
            byref(rows),
            len(x),
            None if bias is None else bias.data_ptr(),
            mode,
            out.data_ptr(),
            columns,
        )
    return out
