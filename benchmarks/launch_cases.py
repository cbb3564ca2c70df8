"""The table of shapes that the Triton kernels are compiled for, and what the operators launch for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.recording import Launch, recorded
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
    hopper_attention,
    logprobs,
    norm,
    norm_quantize,
    penalties,
    race,
    rotary,
    sampling,
    thresholds,
    typical,
)
from tokenwire_kernels.triton.linear import linear
from tokenwire_kernels.triton.target import Gpu, assuming


def launches(gpu: Gpu, quick: bool = False) -> list[Launch]:
    """Every distinct launch over the table of shapes, as an operator makes it on that GPU."""
    with assuming(gpu):
        found = _launches(quick)
    if gpu.capability >= 90:
        with assuming(replace(gpu, launches_dependents=True)):
            found += _dependent_launches()
    if gpu.capability == 90:
        with assuming(gpu):
            found += _specialized_launches(quick)
    return [launch for launch in found if gpu.capability >= launch.least_capability]


def _launches(quick: bool) -> list[Launch]:
    found: list[Launch] = []
    dtypes = [torch.bfloat16] if quick else [torch.bfloat16, torch.float16, torch.float32]
    for dtype in dtypes:
        name = _short_name(dtype)
        for hidden in [4096] if quick else [576, 4096, 8192]:
            case = f"{name}, hidden {hidden}"
            x, weight = _empty(32, hidden, dtype=dtype), _empty(hidden, dtype=dtype)
            found += recorded(case, [norm], partial(norm.rms_norm, x, weight, 1e-5))
            found += recorded(case, [norm], partial(norm.add_rms_norm, x, x, weight, 1e-5))
            for codes_dtype in (torch.int8, torch.float8_e4m3fn):
                quantized = partial(norm_quantize.rms_norm_quantize, x, weight, 1e-5, codes_dtype)
                to = f"{case} to {_short_name(codes_dtype)}"
                found += recorded(to, [norm_quantize], quantized)
                found += recorded(f"{to}, residual", [norm_quantize], partial(quantized, x))
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
                norms = partial(_rotary, dtype, *heads, torch.float8_e4m3fn)
                found += recorded(f"{case}, fp8 cache, QK-norm", [rotary], norms)
            for cached in _other_formats(dtype, head_dim, quick):
                converted = partial(_attention, dtype, cached, *heads)
                found += recorded(f"{case}, {_short_name(cached)} cache", attends, converted)
    found += recorded("tables of 8192 blocks", [decode], _decode_step)
    logits = _empty(32, 128256, dtype=torch.float32)
    found += recorded("blocks of 32 kB", [blocks], _block_copies)
    case = "vocabulary 128256"
    samplers = [sampling, race, thresholds, typical]
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
    for scored_dtype, rows, num_top in (
        (torch.float32, _empty(32, dtype=torch.int64), 20),
        (torch.bfloat16, None, 20),
        (torch.bfloat16, None, 5),
        (torch.float32, None, 0),
    ):
        scored = partial(_scores, scored_dtype, rows, num_top)
        found += recorded(f"{case}, {_short_name(scored_dtype)}, top {num_top}", [logprobs], scored)
    found += recorded(
        "vocabulary 262208, bfloat16, top 20", [logprobs], partial(_scores, torch.bfloat16, None, 20, 262208)
    )
    with_typical_p = _sampling_batch(unfiltered=False)
    with_typical_p.typical_p = with_typical_p.top_p
    found += recorded(f"{case}, typical-p", samplers, partial(sampling.sample, logits, with_typical_p))
    return found


def _other_formats(dtype: torch.dtype, head_dim: int, quick: bool) -> list[torch.dtype]:
    """Formats of a cache that attention in `dtype` is compiled with as well: fp8 with all heads, the others,
    which few want, with some."""
    formats = [torch.float8_e4m3fn]
    if not quick and head_dim in (64, 128, 256):
        formats += [torch.bfloat16, torch.float16, torch.float32]
    return [each for each in formats if each != dtype]


def _short_name(dtype: torch.dtype) -> str:
    return "fp8" if dtype == torch.float8_e4m3fn else str(dtype).removeprefix("torch.")


def _dependent_launches() -> list[Launch]:
    """Those kernels of a step of decodes that may begin early."""
    dtype = torch.bfloat16
    x, weight = _empty(1, 4096, dtype=dtype), _empty(4096, dtype=dtype)
    case = "dependent launch, bfloat16"
    found = recorded(f"{case}, hidden 4096", [norm], partial(norm.rms_norm, x, weight, 1e-5))
    found += recorded(f"{case}, 4096 to 4096", [norm, few_rows], partial(_few_rows, x, 4096))
    heads = f"{case}, 32 heads of 128 over 8"
    found += recorded(heads, [rotary], partial(_rotary, dtype, 32, 8, 128))
    found += recorded(heads, [decode_attention], partial(_decodes, 2))
    return found


def _specialized_launches(quick: bool) -> list[Launch]:
    """Chunks that warps of different tasks attend to."""
    found: list[Launch] = []
    for dtype in [torch.bfloat16] if quick else [torch.bfloat16, torch.float16]:
        for head_dim in (64, 128):
            for heads, block_size in ((32, 16),) if quick else ((32, 16), (32, 128), (40, 48)):
                case = f"{_short_name(dtype)}, {heads} heads of {head_dim} over 8, blocks of {block_size}"
                operator = hopper_attention.paged_attention
                attend = partial(
                    _attention, dtype, dtype, heads, 8, head_dim, block_size=block_size, operator=operator
                )
                made = recorded(case, [decode_attention, chunk_attention, hopper_attention], attend)
                found += [launch for launch in made if launch.kernel not in ("schedule", "decode")]
    return found


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
    block_size: int = 16,
    operator: Callable[..., Tensor] = attention.paged_attention,
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
    q = _empty(514, heads, head_dim, dtype=dtype)
    cache = _cache(cache_dtype, kv_heads, head_dim, block_size)
    given = _empty(heads, dtype=torch.float32) if sinks else None
    operator(q, cache, batch, 0.1, window, soft_cap, given)


def _decodes(num_seqs: int) -> None:
    dtype = torch.bfloat16
    batch = AttentionBatch(
        block_tables=_empty(num_seqs, 512, dtype=torch.int32),
        query_starts=_empty(num_seqs + 1, dtype=torch.int32),
        context_lens=_empty(num_seqs, dtype=torch.int32),
        max_query_len=1,
        max_context_len=8192,
        num_decodes=num_seqs,
    )
    q, cache = _empty(num_seqs, 32, 128, dtype=dtype), _cache(dtype, 8, 128)
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


def _cache(dtype: torch.dtype, kv_heads: int, head_dim: int, block_size: int = 16) -> LayerCache:
    """Of fp8 with scales."""
    keys = _empty(1024, kv_heads, block_size, head_dim, dtype=dtype)
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


def _scores(dtype: torch.dtype, rows: Tensor | None, num_top: int, vocab_size: int = 128256) -> None:
    logits = _empty(32, vocab_size, dtype=dtype)
    logprobs.score_tokens(logits, rows, _empty(32, dtype=torch.int64), num_top)


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
