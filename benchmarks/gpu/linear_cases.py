"""The products of a layer at the numbers of rows that a step has, beside cuBLAS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.case import Case, randn
from benchmarks.gpu.peers import Peer
from benchmarks.gpu.section import Context
from benchmarks.gpu.timing import Call
from tokenwire_kernels import Kernels, RowNorm


@dataclass(slots=True, frozen=True)
class _Product:
    """One of a layer's products, with what stands around it there."""

    out_features: int
    in_features: int
    is_normalized: bool = False
    is_gated: bool = False
    is_added: bool = False


def cases(context: Context, kernels: Kernels) -> Iterator[Case]:
    """The products of an 8B Llama's step, as the engine computes them; a peer takes one launch for each part,
    another is the product alone."""
    products = {
        "norm, qkv": _Product(6144, 4096, is_normalized=True),
        "o, residual": _Product(4096, 4096, is_added=True),
        "norm, gate_up, SiLU": _Product(28672, 4096, is_normalized=True, is_gated=True),
        "down, residual": _Product(4096, 14336, is_added=True),
        "lm_head": _Product(128256, 4096),
    }
    if context.quick:
        products = {"norm, gate_up, SiLU": _Product(96, 64, is_normalized=True, is_gated=True)}
    for rows in [1, 4] if context.quick else [1, 4, 16, 32, 64, 256, 4096]:
        for name, product in products.items():
            if name == "lm_head" and rows > 256:
                continue
            yield _product(context, kernels, rows, name, product)


def _product(context: Context, kernels: Kernels, rows: int, name: str, product: _Product) -> Case:
    n, k = product.out_features, product.in_features
    outputs = n // 2 if product.is_gated else n

    def make(linear: Callable[..., object]) -> Call:
        x, weight = randn(context, rows, k), randn(context, n, k)
        norm = RowNorm(randn(context, k), 1e-5) if product.is_normalized else None
        residual = randn(context, rows, outputs) if product.is_added else None
        return lambda: linear(x, weight, None, norm, product.is_gated, residual)

    def apart(
        x: Tensor, weight: Tensor, bias: None, norm: RowNorm | None, is_gated: bool, residual: Tensor | None
    ) -> None:
        if norm is not None:
            x = kernels.rms_norm(x, norm.weight, norm.eps)
        y = functional.linear(x, weight)
        if is_gated:
            y = kernels.silu_and_mul(y)
        if residual is not None:
            residual.add_(y)

    return Case(
        "linear",
        f"{name}, {rows} x {n} x {k}",
        2 * (rows * k + n * k + rows * outputs * (2 if product.is_added else 1)),
        lambda: make(kernels.linear),
        2 * rows * n * k,
        [
            Peer("cuBLAS, each part apart", lambda: make(apart)),
            Peer("cuBLAS, the product alone", lambda: make(_alone)),
        ],
    )


def _alone(x: Tensor, weight: Tensor, *around: object) -> Tensor:
    return functional.linear(x, weight)
