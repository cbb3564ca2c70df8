"""Every kernel as a fraction of its ceiling, beside what else computes the same.

A kernel that reads and writes memory is held against the read bandwidth; one that multiplies matrices,
against the rate of the largest product. Bytes are the fewest that can be moved: each input once, each output
once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu import attention_cases, linear_cases
from benchmarks.gpu.case import Case, randn
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.models import takes_fp8
from benchmarks.gpu.peers import Peer
from benchmarks.gpu.section import Context
from benchmarks.gpu.timing import Call, copies, seconds_per_call
from tokenwire_kernels import Kernels, LayerCache, SamplingBatch, describe_kernels, select_kernels


def measure(context: Context, findings: Findings) -> None:
    """All cases, as far as the time goes; each with its peers."""
    kernels = select_kernels(context.device, "torch")
    findings.table("Implementations", "operator", "implementation")
    for operator, implementation in describe_kernels(kernels):
        findings.row(operator, implementation)
    findings.table(
        "Kernels", "operator", "shape", "µs", "GB/s", "% of read", "TFLOP/s", "% of matmul", "peers, µs"
    )
    absent: set[str] = set()
    for case in _cases(context, kernels):
        if case.operator in kernels.fallen_back:  # the reference would take the section's time
            findings.note(f"{case.operator} {case.shape} was left out: a kernel of it does not compile here")
            continue
        if not context.has_time(3.0, findings, f"{case.operator} {case.shape}"):
            continue
        try:
            _measure(context, findings, case, absent)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, torch.AcceleratorError):
                raise
            findings.note(f"{case.operator} {case.shape} failed: {str(error).splitlines()[0]}")


def _measure(context: Context, findings: Findings, case: Case, absent: set[str]) -> None:
    count = 2 if context.quick else copies(case.bytes, context.device)
    seconds = seconds_per_call([case.make() for _ in range(count)], context.device)
    peers = []
    for peer in case.peers:
        try:
            peers.append(f"{peer.name} {1e6 * seconds_per_call(peer.calls(count), context.device):.1f}")
        except Exception as error:  # whatever another library raises
            if isinstance(error, torch.AcceleratorError):
                raise
            message = next(iter(str(error).splitlines()), "")
            reason = f"{peer.name}: {type(error).__name__}: {message}"
            if reason not in absent:
                absent.add(reason)
                findings.note(f"peer left out, {reason}")
    rate, flops = case.bytes / seconds, case.flops / seconds
    findings.row(
        case.operator,
        case.shape,
        1e6 * seconds,
        rate / 1e9,
        context.share("read", rate),
        flops / 1e12 if flops else None,
        context.share("matmul", flops) if flops else None,
        ", ".join(peers) or None,
    )


def _cases(context: Context, kernels: Kernels) -> Iterator[Case]:
    """Those that decide most first: attention, products, then what is small."""
    yield from attention_cases.cases(context, kernels)
    yield from linear_cases.cases(context, kernels)
    yield from _small(context, kernels)
    yield from _sampling(context, kernels)
    yield attention_cases.beside_flex_attention(context, kernels)  # which takes long to compile


def _small(context: Context, kernels: Kernels) -> Iterator[Case]:
    hidden, inner = (64, 96) if context.quick else (4096, 14336)
    for rows in [1, 3] if context.quick else [1, 32, 256, 4096]:

        def norm(rows: int = rows) -> Call:
            x, weight = randn(context, rows, hidden), randn(context, hidden)
            return lambda: kernels.rms_norm(x, weight, 1e-5)

        def add_norm(rows: int = rows) -> Call:
            x, residual, weight = (randn(context, *s) for s in ((rows, hidden), (rows, hidden), (hidden,)))
            return lambda: kernels.add_rms_norm(x, residual, weight, 1e-5)

        def gate(rows: int = rows) -> Call:
            gate_up = randn(context, rows, 2 * inner)
            return lambda: kernels.silu_and_mul(gate_up)

        yield Case("rms_norm", f"{rows} x {hidden}", 2 * hidden * (2 * rows + 1), norm)
        yield Case("add_rms_norm", f"{rows} x {hidden}", 2 * hidden * (4 * rows + 1), add_norm)
        yield from _quantized(context, kernels, rows, hidden)
        yield Case("silu_and_mul", f"{rows} x {inner}", 2 * rows * inner * 3, gate)
        yield _rotary(context, kernels, rows)


def _quantized(context: Context, kernels: Kernels, rows: int, hidden: int) -> Iterator[Case]:
    """Residual, norm and quantization in one launch; the peer takes the norm first, then what is left."""
    formats = [torch.int8, torch.float8_e4m3fn] if takes_fp8(context.device) else [torch.int8]
    for dtype in formats:

        def inputs() -> tuple[Tensor, Tensor, Tensor]:
            x, residual = (randn(context, rows, hidden) for _ in range(2))
            return x, residual, randn(context, hidden)

        def fused(dtype: torch.dtype = dtype) -> Call:
            x, residual, weight = inputs()
            return lambda: kernels.rms_norm_quantize(x, weight, 1e-5, dtype, residual)

        def apart(dtype: torch.dtype = dtype) -> Call:
            x, residual, weight = inputs()
            most = 127.0 if dtype == torch.int8 else 448.0

            def call() -> object:
                y = kernels.add_rms_norm(x, residual, weight, 1e-5).float()
                scales = y.abs().amax(dim=-1, keepdim=True) / most
                codes = (y / scales).clamp(-most, most)
                return (codes.round() if dtype == torch.int8 else codes).to(dtype), scales

            return call

        name = "int8" if dtype == torch.int8 else "fp8"
        moved = hidden * (7 * rows + 2) + 4 * rows
        yield Case(
            "rms_norm_quantize", f"{rows} x {hidden} to {name}", moved, fused, peers=[Peer("apart", apart)]
        )


def _rotary(context: Context, kernels: Kernels, rows: int) -> Case:
    heads, kv_heads, head_dim = (4, 2, 16) if context.quick else (32, 8, 128)
    blocks = rows + 1

    def make() -> Call:
        qkv = randn(context, rows, heads + 2 * kv_heads, head_dim)
        q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], dim=1)
        angles = torch.rand(8192, head_dim // 2, device=context.device)
        keys, values = (randn(context, blocks, kv_heads, 16, head_dim) for _ in range(2))
        cache = LayerCache(keys, values)
        positions = torch.randint(0, 8192, (rows,), device=context.device)
        slots = torch.randperm(rows, device=context.device) * 16
        return lambda: kernels.rotary_and_cache(q, k, v, angles, angles, positions, cache, slots)

    moved = rows * (2 * 2 * heads + 2 * 4 * kv_heads) * head_dim + rows * 4 * head_dim
    return Case(
        "rotary_and_cache", f"{rows} tokens, {heads} heads of {head_dim} over {kv_heads}", moved, make
    )


def _sampling(context: Context, kernels: Kernels) -> Iterator[Case]:
    vocab_size = 320 if context.quick else 128256
    for rows in [1, 3] if context.quick else [1, 32, 256]:

        def greedy(rows: int = rows) -> Call:
            logits = torch.randn(rows, vocab_size, device=context.device)
            return lambda: kernels.greedy(logits)

        def draw(rows: int = rows, unfiltered: bool = True) -> Call:
            logits = torch.randn(rows, vocab_size, device=context.device)
            batch = _sampling_batch(rows, context.device, unfiltered)
            return lambda: kernels.sample(logits, batch)

        def argmax(rows: int = rows) -> Call:
            logits = torch.randn(rows, vocab_size, device=context.device)
            return lambda: logits.argmax(dim=-1)

        moved, shape = 4 * rows * vocab_size, f"{rows} x {vocab_size}"
        yield Case("greedy", shape, moved, greedy, peers=[Peer("torch.argmax", argmax)])
        yield Case("sample", f"{shape}, temperature", moved, draw)
        yield _scores(context, kernels, rows, vocab_size)
        yield Case("sample", f"{shape}, top-k 40, top-p 0.9", moved, lambda draw=draw: draw(unfiltered=False))  # type: ignore[misc]


def _scores(context: Context, kernels: Kernels, rows: int, vocab_size: int) -> Case:
    """Log-probabilities as of a prompt's tokens: logits in the model's format, and 20 alternatives."""

    def inputs() -> tuple[Tensor, Tensor]:
        return randn(context, rows, vocab_size), torch.randint(vocab_size, (rows,), device=context.device)

    def score() -> Call:
        logits, tokens = inputs()
        return lambda: kernels.score_tokens(logits, None, tokens, 20)

    def apart() -> Call:
        logits, tokens = inputs()

        def call() -> object:
            logprobs = logits.float().log_softmax(dim=-1)
            of_token = logprobs.gather(1, tokens[:, None])
            return logprobs.topk(20, dim=-1), (logprobs > of_token).sum(dim=-1)

        return call

    peers = [Peer("torch, log_softmax and topk", apart)]
    return Case("score_tokens", f"{rows} x {vocab_size}, top 20", 2 * rows * vocab_size, score, peers=peers)


def _sampling_batch(rows: int, device: torch.device, unfiltered: bool) -> SamplingBatch:
    def full(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((rows,), value, dtype=dtype, device=device)

    return SamplingBatch(
        temperatures=full(0.8, torch.float32),
        top_k=full(0 if unfiltered else 40, torch.int32),
        top_p=full(1.0 if unfiltered else 0.9, torch.float32),
        min_p=full(0.0, torch.float32),
        seeds=torch.arange(rows, device=device),
        sample_indices=full(0, torch.int32),
        positions=torch.arange(rows, device=device),
        all_unfiltered=unfiltered,
    )
