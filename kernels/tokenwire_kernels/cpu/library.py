"""The shared library: finding it, and the C functions and structures of `src/abi.h` in Python.

Calls through `ctypes` release the interpreter's lock, so that the rest of the process goes on while the
kernels compute.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from tokenwire_kernels.cpu.build import digest

LIBRARY = Path(__file__).resolve().parent / "libtokenwire_cpu.so"

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""`tw_dtype`."""
CACHE_DTYPES = DTYPES | {torch.int8: 3}
"""The same, of a cache."""
FORMATS = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3, "int4": 4}
"""`tw_format`, of what can be packed."""
COMPACT = 5
"""`tw_format` of what bfloat16 becomes."""
PATCH_BYTES = 8
"""Of a `tw_patch`."""
STORE, ADD, SILU_AND_MUL = range(3)
"""`tw_output`."""


CHUNK_BYTES = 32 << 20
"""Memory is taken from the system in such pieces, and used from its beginning: the rest is never touched."""
ALIGNMENT = 64
"""Bytes; a cache line."""


class NativeError(RuntimeError):
    """The native kernels cannot be had; one line that says why."""


class Matrix(Structure):
    _fields_: ClassVar = [
        ("format", c_int32),
        ("group", c_int32),
        ("is_paired", c_int32),
        ("padding", c_int32),
        ("n", c_int64),
        ("k", c_int64),
        ("panels", c_void_p),
        ("scales", c_void_p),
    ]


class Input(Structure):
    _fields_: ClassVar = [("x", c_void_p), ("stride", c_int64), ("norm", c_void_p), ("eps", c_float)]


class Layer(Structure):
    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, POINTER(Matrix)) for name in ("qkv", "o", "gate_up", "down")),
        *((name, c_void_p) for name in ("qkv_bias", "o_bias", "gate_up_bias", "down_bias")),
        ("window", c_int64),
        ("group", c_int64),
    ]


class Model(Structure):
    _fields_: ClassVar = [
        ("num_layers", c_int64),
        ("hidden_size", c_int64),
        ("intermediate_size", c_int64),
        ("vocab_size", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("num_positions", c_int64),
        ("eps", c_float),
        ("attention_scale", c_float),
        ("soft_cap", c_float),
        ("embedding_dtype", c_int32),
        ("embedding", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("final_norm", c_void_p),
        ("lm_head", POINTER(Matrix)),
        ("layers", POINTER(Layer)),
    ]


class Cache(Structure):
    _fields_: ClassVar = [("keys", c_void_p), ("values", c_void_p)]


class Sequences(Structure):
    _fields_: ClassVar = [
        ("block_tables", c_void_p),
        ("table_stride", c_int64),
        ("query_starts", c_void_p),
        ("context_lens", c_void_p),
        ("num_seqs", c_int64),
        ("num_tokens", c_int64),
    ]


class CacheShape(Structure):
    _fields_: ClassVar = [
        ("num_kv_heads", c_int64),
        ("block_size", c_int64),
        ("head_dim", c_int64),
        ("dtype", c_int32),
        ("padding", c_int32),
    ]


class Attention(Structure):
    _fields_: ClassVar = [
        ("q", c_void_p),
        ("q_token_stride", c_int64),
        ("q_head_stride", c_int64),
        ("out", c_void_p),
        ("num_heads", c_int64),
        ("dtype", c_int32),
        ("scale", c_float),
        ("soft_cap", c_float),
        ("padding", c_int32),
        ("window", c_int64),
        ("cache", Cache),
        ("shape", CacheShape),
        ("sequences", Sequences),
    ]


class Rotary(Structure):
    _fields_: ClassVar = [
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("q_token_stride", c_int64),
        ("q_head_stride", c_int64),
        ("k_token_stride", c_int64),
        ("k_head_stride", c_int64),
        ("v_token_stride", c_int64),
        ("v_head_stride", c_int64),
        ("num_tokens", c_int64),
        ("num_heads", c_int64),
        ("half", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("eps", c_float),
        ("dtype", c_int32),
        ("cache", Cache),
        ("shape", CacheShape),
    ]


class View(Structure):
    _fields_: ClassVar = [("slots", c_void_p), ("sequences", Sequences)]


class Step(Structure):
    _fields_: ClassVar = [
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("views", POINTER(View)),
        ("caches", POINTER(Cache)),
        ("shape", CacheShape),
        ("hidden", c_void_p),
        ("logits", c_void_p),
        ("tokens", c_void_p),
    ]


class Decodes(Structure):
    _fields_: ClassVar = [
        ("slots", c_void_p),
        ("bases", c_void_p),
        ("latest_tokens", c_void_p),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("next_positions", c_void_p),
        ("context_lens", c_void_p),
        ("cache_slots", c_void_p),
        ("num_groups", c_int64),
    ]


class Sampling(Structure):
    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("temperatures", "top_k", "top_p", "min_p", "typical_p", "keys")),
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
    ]


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "tw_sources": (c_char_p, []),
    "tw_instruction_set": (c_char_p, [c_int32]),
    "tw_runs": (c_int32, [c_int32]),
    "tw_open": (c_void_p, [c_int32, c_int32, POINTER(c_int32)]),
    "tw_close": (None, [c_void_p]),
    "tw_allocate": (c_void_p, [c_int64]),
    "tw_free": (None, [c_void_p, c_int64]),
    "tw_panel_bytes": (c_int64, [c_void_p, POINTER(Matrix)]),
    "tw_scale_bytes": (c_int64, [c_void_p, POINTER(Matrix)]),
    "tw_pack": (None, [c_void_p, POINTER(Matrix), c_int64, c_int64, c_void_p, c_int32, c_int64]),
    "tw_pack_codes": (None, [c_void_p, POINTER(Matrix), c_int64, c_int64, c_void_p, c_void_p]),
    "tw_choose_codes": (c_int64, [c_void_p, POINTER(Matrix), c_void_p]),
    "tw_compact": (None, [c_void_p, POINTER(Matrix), POINTER(Matrix)]),
    "tw_quantize": (
        None,
        [
            c_void_p,
            c_void_p,
            c_int32,
            *[c_int64] * 3,
            c_int32,
            c_int64,
            c_void_p,
            c_int64,
            c_void_p,
            c_void_p,
        ],
    ),
    "tw_linear": (
        None,
        [c_void_p, POINTER(Matrix), POINTER(Input), c_int64, c_void_p, c_int32, c_void_p, c_int64],
    ),
    "tw_rms_norm": (None, [c_void_p] * 5 + [c_int64] * 5 + [c_float, c_int32]),
    "tw_silu_and_mul": (None, [c_void_p] * 3 + [c_int64] * 3 + [c_int32]),
    "tw_rotary_and_cache": (None, [c_void_p, POINTER(Rotary)]),
    "tw_paged_attention": (None, [c_void_p, POINTER(Attention)]),
    "tw_greedy": (None, [c_void_p, c_void_p, c_int32, c_int64, c_int64, c_int64, c_void_p]),
    "tw_apply_bitmask": (
        None,
        [c_void_p, c_void_p, c_int32, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_int64],
    ),
    "tw_sample": (None, [c_void_p, c_void_p, POINTER(Sampling), c_void_p]),
    "tw_forward": (c_int64, [c_void_p, POINTER(Model), POINTER(Step)]),
    "tw_decode": (c_int64, [c_void_p, POINTER(Model), POINTER(Step), POINTER(Decodes), c_int64]),
    "tw_logits": (None, [c_void_p, POINTER(Model), c_void_p, c_int64, c_int64, c_void_p]),
}


@cache
def load_library(path: Path | None = None) -> ctypes.CDLL:
    """The shared library with its functions declared; loaded once. None: the one beside this file.

    Raises:
        NativeError: it was not built, or is of another version.
    """
    path = path or LIBRARY
    if not path.exists():
        raise NativeError("the native CPU kernels were not compiled when Tokenwire was installed")
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        sources: bytes = library.tw_sources()
    except (OSError, AttributeError) as error:
        raise NativeError(f"the native CPU kernels cannot be loaded: {error}") from None
    if sources.decode() != digest():
        raise NativeError("the native CPU kernels were compiled from other sources; install again")
    return library


def instruction_sets(library: ctypes.CDLL) -> list[str]:
    """Those that the library holds and this CPU has, weakest first."""
    return [name for index, name in enumerate(_compiled(library)) if library.tw_runs(index)]


class Chunk:
    """Memory for packed weights, given back when nobody refers to it."""

    __slots__ = ("_library", "address", "size", "used")

    def __init__(self, library: ctypes.CDLL, size: int) -> None:
        self._library = library
        self.size, self.used = size, 0
        self.address = library.tw_allocate(size)
        if not self.address:
            raise MemoryError(f"there are no {size / 2**20:.1f} MiB left for weights")

    def __del__(self) -> None:
        if self.address:
            self._library.tw_free(self.address, self.size)


class Context:
    """Threads that compute with one instruction set; they sleep while nobody calls."""

    def __init__(
        self,
        num_threads: int,
        cpus: Sequence[int] | None = None,
        instruction_set: str | None = None,
    ) -> None:
        """
        Args:
            num_threads: the calling thread counts.
            cpus: the CPU that each thread is pinned to, but for the calling one; None: nobody is pinned.
            instruction_set: None: the strongest that this CPU has.

        Raises:
            NativeError: the library is not there, or it or the CPU lacks the instruction set.
        """
        self.library = load_library()
        there = instruction_sets(self.library)
        self.instruction_set = instruction_set or there[-1]
        if self.instruction_set not in there:
            raise NativeError(
                f"there are no kernels for {self.instruction_set} on this CPU; it has {', '.join(there)}"
            )
        self.num_threads = num_threads
        self._cpus = cpus
        self._chunk: Chunk | None = None
        index = _compiled(self.library).index(self.instruction_set)
        pinned = (c_int32 * num_threads)(*cpus) if cpus is not None else None
        self.handle = self.library.tw_open(index, num_threads, pinned)

    def pin_caller(self) -> None:
        """Keep the calling thread, and those that it starts, on the CPU that the pinned threads leave to it.

        Wherever else it ran, one of them would wait for it, and cannot go elsewhere. Where they are not
        pinned, neither is the caller.
        """
        if self._cpus is not None:
            os.sched_setaffinity(0, {self._cpus[0]})

    def allocate(self, num_bytes: int, *, is_shared: bool = True) -> tuple[Chunk, int]:
        """Zeroed memory at an address; it is valid while the chunk that it is part of is referred to.

        Matrices lie side by side, so that they share large pages: reading them needs fewer translations.

        Args:
            is_shared: False: nothing else lies in the chunk, so that the memory is given back with it.

        Raises:
            MemoryError: there is not so much.
        """
        if not is_shared:
            chunk = Chunk(self.library, num_bytes)
            return chunk, chunk.address
        if self._chunk is None or self._chunk.used + num_bytes > self._chunk.size:
            self._chunk = Chunk(self.library, max(CHUNK_BYTES, num_bytes))
        address: int = self._chunk.address + self._chunk.used
        self._chunk.used += -(-num_bytes // ALIGNMENT) * ALIGNMENT
        return self._chunk, address

    def __del__(self) -> None:
        if handle := getattr(self, "handle", None):
            self.library.tw_close(handle)


def _compiled(library: ctypes.CDLL) -> list[str]:
    names: list[str] = []
    while (name := library.tw_instruction_set(len(names))) is not None:
        names.append(name.decode())
    return names
