"""What the Triton kernels need of each GPU generation, found without a GPU.

The launches are those that the operators really make, recorded over a table of shapes on tensors that
have no memory, and compiled ahead of time. `python -m benchmarks.compile` writes registers, shared
memory and spills to benchmarks/results/compile.md; the kernels' tests assert on the same numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel
from triton.runtime.jit import JITFunction

from tokenwire_kernels import (
    AttentionBatch,
    DecodeRows,
    HeadNorms,
    LayerCache,
    PenaltyBatch,
    RowNorm,
    SamplingBatch,
)
from tokenwire_kernels.triton import (
    activation,
    attention,
    bitmask,
    blocks,
    chunk_attention,
    decode,
    decode_attention,
    few_rows,
    norm,
    penalties,
    rotary,
    sampling,
    thresholds,
    typical,
)
from tokenwire_kernels.triton.linear import linear
from tokenwire_kernels.triton.target import AMPERE, BLACKWELL, HOPPER, Gpu, assuming

SHARED_MEMORY_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes that one program may use, by compute capability (CUDA C++ Programming Guide, appendix K)."""
RESULTS = Path(__file__).parent / "results" / "compile.md"
_TYPE_NAMES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int32: "*i32", torch.int64: "*i64", torch.float8_e4m3fn: "*fp8e4nv",
    torch.uint8: "*u8",
}  # fmt: skip


@dataclass(slots=True, frozen=True)
class Launch:
    """One kernel with the arguments that an operator gave it."""

    kernel: str
    case: str
    function: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def least_capability(self) -> int:
        """The first of the generations that has the arguments' number formats."""
        fp8 = any(isinstance(x, Tensor) and x.dtype == torch.float8_e4m3fn for x in self.arguments.values())
        return 90 if fp8 else 80


@dataclass(slots=True, frozen=True)
class Usage:
    """What a compiled kernel needs."""

    kernel: str
    case: str
    capability: int
    registers: int
    stack_bytes: int
    """Per thread: registers spilled to memory, or arrays that did not fit in any."""
    shared_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the measurements; write no report")
    parser.add_argument("--quick", action="store_true", help="only the shapes of the usual checkpoints")
    options = parser.parse_args()
    usages = [
        usage_of(launch, gpu.capability)
        for gpu in (AMPERE, HOPPER, BLACKWELL)
        for launch in launches(gpu, quick=options.quick)
    ]
    if options.json:
        print(json.dumps([asdict(usage) for usage in usages]))
    else:
        RESULTS.write_text(report(usages))
        print(RESULTS.read_text())


def launches(gpu: Gpu, quick: bool = False) -> list[Launch]:
    """Every distinct launch over the table of shapes, as an operator makes it on that GPU."""
    with assuming(gpu):
        found = _launches(quick)
    if gpu.capability >= 90:
        with assuming(replace(gpu, launches_dependents=True)):
            found += _dependent_launches()
    return [launch for launch in found if gpu.capability >= launch.least_capability]


def _launches(quick: bool) -> list[Launch]:
    found: list[Launch] = []
    dtypes = [torch.bfloat16] if quick else [torch.bfloat16, torch.float16, torch.float32]
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        for hidden in [4096] if quick else [576, 4096, 8192]:
            case = f"{name}, hidden {hidden}"
            x, weight = _empty(32, hidden, dtype=dtype), _empty(hidden, dtype=dtype)
            found += recorded(case, [norm], partial(norm.rms_norm, x, weight, 1e-5))
            found += recorded(case, [norm], partial(norm.add_rms_norm, x, x, weight, 1e-5))
            found += recorded(case, [activation], partial(activation.silu_and_mul, x))
            found += recorded(f"{name}, {hidden} to 4096", [norm, few_rows], partial(_few_rows, x, 4096))
        for head_dim in [64, 128] if quick else [64, 80, 96, 128, 192, 256]:
            heads = (32, 8, head_dim)
            case = f"{name}, 32 heads of {head_dim} over 8"
            attends = [decode_attention, chunk_attention]
            found += recorded(case, [rotary], partial(_rotary, dtype, *heads))
            found += recorded(case, attends, partial(_attention, dtype, dtype, *heads))
            window = partial(_attention, dtype, dtype, *heads, window=4096, soft_cap=50.0, sinks=True)
            found += recorded(f"{case}, window, soft cap, sinks", attends, window)
            if dtype == torch.bfloat16 and head_dim in (64, 128):
                case += ", fp8 cache"
                norms = partial(_rotary, dtype, *heads, torch.float8_e4m3fn)
                found += recorded(f"{case}, QK-norm", [rotary], norms)
                fp8 = partial(_attention, dtype, torch.float8_e4m3fn, *heads)
                found += recorded(case, attends, fp8)
    found += recorded("tables of 8192 blocks", [decode], _decode_step)
    logits = _empty(32, 128256, dtype=torch.float32)
    # Triton makes constants of integers that are 1.
    for decodes, chunks in ((1, 0), (0, 1), (1, 1)):
        attends = [decode_attention, chunk_attention]
        case = f"bfloat16, {decodes} decodes and {chunks} chunks"
        found += recorded(case, attends, partial(_few_sequences, decodes, chunks))
    found += recorded("blocks of 32 kB", [blocks], _block_copies)
    case = "vocabulary 128256"
    samplers = [sampling, thresholds, typical]
    found += recorded(case, samplers, partial(sampling.greedy, logits))
    found += recorded(case, samplers, partial(sampling.sample, logits, _sampling_batch(unfiltered=False)))
    unfiltered = _sampling_batch(unfiltered=True)
    found += recorded(f"{case}, unfiltered", samplers, partial(sampling.sample, logits, unfiltered))
    masked = partial(
        bitmask.apply_token_bitmask,
        logits,
        _empty(32, 4008, dtype=torch.int32),
        _empty(32, dtype=torch.int64),
    )
    found += recorded(case, [bitmask], masked)
    found += recorded(case, [penalties], partial(_penalties, logits))
    with_typical_p = _sampling_batch(unfiltered=False)
    with_typical_p.typical_p = with_typical_p.top_p
    found += recorded(f"{case}, typical-p", samplers, partial(sampling.sample, logits, with_typical_p))
    return found


def _dependent_launches() -> list[Launch]:
    """Those kernels of a step of decodes that may begin early."""
    dtype = torch.bfloat16
    x, weight = _empty(1, 4096, dtype=dtype), _empty(4096, dtype=dtype)
    case = "dependent launch, bfloat16"
    found = recorded(f"{case}, hidden 4096", [norm], partial(norm.rms_norm, x, weight, 1e-5))
    found += recorded(f"{case}, 4096 to 4096", [norm, few_rows], partial(_few_rows, x, 4096))
    heads = f"{case}, 32 heads of 128 over 8"
    found += recorded(heads, [rotary], partial(_rotary, dtype, 32, 8, 128))
    found += recorded(heads, [decode_attention], partial(_few_sequences, 2, 0))
    return found


def usage_of(launch: Launch, capability: int) -> Usage:
    """Compile for one generation, and read the binary's resource usage."""
    signature, constants, attributes = {}, {}, {}
    for index, (parameter, (name, value)) in enumerate(
        zip(launch.function.params, launch.arguments.items(), strict=True)
    ):
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[(index,)] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name], attributes[(index,)] = _TYPE_NAMES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.function, signature, constants, attributes)
    compiled = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    registers, stack = _resources(compiled.asm["cubin"])
    return Usage(launch.kernel, launch.case, capability, registers, stack, compiled.metadata.shared)


def report(usages: list[Usage]) -> str:
    """The measurements as a Markdown page."""
    lines = [
        "# What the Triton kernels need",
        "",
        "Compiled ahead of time, without a GPU, by `python -m benchmarks.compile`. Registers and stack are",
        "per thread; a stack of 0 means that nothing was spilled.",
        "",
        "| kernel | case | sm | registers | stack, bytes | shared memory, bytes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {u.kernel} | {u.case} | {u.capability} | {u.registers} | {u.stack_bytes} | {u.shared_bytes} |"
        for u in usages
    ]
    return "\n".join(lines) + "\n"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack and local memory, of the one kernel in a binary."""
    cuobjdump = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [cuobjdump, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    fields = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", shown)}
    return fields["REG"], fields["STACK"] + fields["LOCAL"]


def recorded(case: str, modules: list[ModuleType], operator: Callable[[], object]) -> list[Launch]:
    """The launches that an operator makes of the modules' kernels, none of which is carried out."""
    found: list[Launch] = []
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(_recording(module, case, found))
        operator()
    return found


@contextmanager
def _recording(module: ModuleType, case: str, found: list[Launch]) -> Iterator[None]:
    kernels = {name: value for name, value in vars(module).items() if isinstance(value, JITFunction)}
    try:
        for name, function in kernels.items():
            setattr(module, name, _Recorder(name, function, case, found))
        yield
    finally:
        for name, function in kernels.items():
            setattr(module, name, function)


@dataclass(slots=True)
class _Recorder:
    """Stands where a kernel was; `recorder[grid](...)` notes the arguments."""

    name: str
    function: Any
    case: str
    found: list[Launch]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self._note

    def _note(self, *positional: Any, **named: Any) -> None:
        names = [parameter.name for parameter in self.function.params]
        options: dict[str, Any] = {
            key: named.pop(key) for key in ("num_warps", "num_stages", "launch_pdl") if key in named
        }
        given = {**dict(zip(names, positional, strict=False)), **named}
        arguments = {name: given[name] for name in names}
        kernel = self.name.strip("_").removesuffix("_kernel")
        self.found.append(Launch(kernel, self.case, self.function, arguments, options))


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _rotary(
    dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, cache_dtype: torch.dtype | None = None
) -> None:
    """With a cache of another dtype, heads are normalized and scaled, too."""
    qkv = _empty(32, heads + 2 * kv_heads, head_dim, dtype=dtype)
    q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], dim=1)
    angles = _empty(8192, head_dim // 2, dtype=torch.float32)
    weight = _empty(head_dim, dtype=dtype)
    norms = HeadNorms(weight, weight, 1e-6) if cache_dtype else None
    places = _empty(32, dtype=torch.int64)
    cache = _cache(cache_dtype or dtype, kv_heads, head_dim)
    rotary.rotary_and_cache(q, k, v, angles, angles, places, cache, places, norms)


def _attention(
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks: bool = False,
) -> None:
    """Two decodes and a chunk of 512 tokens."""
    batch = AttentionBatch(
        block_tables=_empty(3, 512, dtype=torch.int32),
        query_starts=_empty(4, dtype=torch.int32),
        context_lens=_empty(3, dtype=torch.int32),
        max_query_len=512,
        max_context_len=8192,
        num_decodes=2,
    )
    q, cache = _empty(514, heads, head_dim, dtype=dtype), _cache(cache_dtype, kv_heads, head_dim)
    given = _empty(heads, dtype=torch.float32) if sinks else None
    attention.paged_attention(q, cache, batch, 0.1, window, soft_cap, given)


def _few_sequences(decodes: int, chunks: int) -> None:
    """Chunks of 100 tokens."""
    num_seqs, num_tokens, dtype = decodes + chunks, decodes + 100 * chunks, torch.bfloat16
    batch = AttentionBatch(
        block_tables=_empty(num_seqs, 512, dtype=torch.int32),
        query_starts=_empty(num_seqs + 1, dtype=torch.int32),
        context_lens=_empty(num_seqs, dtype=torch.int32),
        max_query_len=100 if chunks else 1,
        max_context_len=8192,
        num_decodes=decodes,
    )
    q, cache = _empty(num_tokens, 32, 128, dtype=dtype), _cache(dtype, 8, 128)
    attention.paged_attention(q, cache, batch, 0.1)


def _few_rows(x: Tensor, out_features: int) -> None:
    """What a decoder's layer multiplies for one token, and for a tile of 16."""
    hidden, dtype = x.shape[1], x.dtype
    norm = RowNorm(_empty(hidden, dtype=dtype), 1e-5)
    weight, gate_up = (_empty(n, hidden, dtype=dtype) for n in (out_features, 8 * out_features))
    for num_rows in (1, 16):
        rows, residual = x[:num_rows], _empty(num_rows, out_features, dtype=dtype)
        linear(rows, weight, residual=residual)
        linear(rows, gate_up, norm=norm, is_gated=True)


def _cache(dtype: torch.dtype, kv_heads: int, head_dim: int) -> LayerCache:
    """In blocks of 16; of fp8 with scales."""
    keys = _empty(1024, kv_heads, 16, head_dim, dtype=dtype)
    scales = _empty(kv_heads, dtype=torch.float32) if dtype.itemsize == 1 else None
    return LayerCache(keys, keys, scales, scales)


def _decode_step() -> None:
    """What comes before and after the forward pass of 32 decodes."""
    places = _empty(32, dtype=torch.int64)
    tables = _empty(32, 8192, dtype=torch.int32)
    context_lens, step = _empty(32, dtype=torch.int32), _empty(1, dtype=torch.int64)
    rows = DecodeRows(places, places, places, context_lens, places, step)
    decode.advance_decodes(rows, places)
    decode.gather_block_tables(rows, tables, tables, places, 16)
    decode.record_tokens(places, rows, places, _empty(2, 32, dtype=torch.int64))


def _block_copies() -> None:
    layers = [_empty(64, 8, 16, 128, dtype=torch.bfloat16)] * 4
    some, staged = _empty(3, dtype=torch.int64), _empty(3, 4, 8, 16, 128, dtype=torch.bfloat16)
    blocks.copy_blocks(layers, some, some)
    blocks.gather_blocks(layers, some, staged)
    blocks.scatter_blocks(staged, layers, some)


def _penalties(logits: Tensor) -> None:
    vocab_size, rows = logits.shape[1], _empty(4, dtype=torch.int64)
    amounts = _empty(4, dtype=torch.float32)
    penalties.apply_penalties(
        logits,
        _empty(8, vocab_size, dtype=torch.bool),
        _empty(8, vocab_size, dtype=torch.int32),
        PenaltyBatch(rows, rows, amounts, amounts, amounts),
    )


def _sampling_batch(unfiltered: bool) -> SamplingBatch:
    float_row, int_row = _empty(32, dtype=torch.float32), _empty(32, dtype=torch.int32)
    long_row = _empty(32, dtype=torch.int64)
    return SamplingBatch(
        temperatures=float_row, top_k=int_row, top_p=float_row, min_p=float_row,
        seeds=long_row, sample_indices=int_row, positions=long_row, all_unfiltered=unfiltered,
    )  # fmt: skip


if __name__ == "__main__":
    main()
