"""A kernel in Gluon, run as Python: its source on NumPy arrays, each of its partitions in a thread.

It shows which elements are read and written, and how partitions wait for each other: barriers count arrivals
and bytes as the hardware does, shared memory begins as NaN, and an address outside of its tensor is an error.
Layouts and registers are nothing here; the tensor cores' layout of shared memory, 64 columns of all rows
behind each other, is taken as given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

PATIENCE_S = 20.0
"""A wait that takes longer never ends."""


class Launcher:
    """Stands where a module's kernel was: `launcher[grid](...)` runs it to its end."""

    def __init__(self, module: ModuleType, kernel: str) -> None:
        self.barriers: list[Barrier] = []
        self._program, self._num_programs = 0, 0
        self._globals: dict[str, Any] = {**vars(module), **self._language(), "__builtins__": __builtins__}
        for name, value in vars(module).items():
            if isinstance(value, JITFunction):
                self._globals[name] = FunctionType(value.fn.__code__, self._globals, name)
        self._kernel = self._globals[kernel]
        self._names = [parameter.name for parameter in getattr(module, kernel).params]

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        return lambda *positional, **named: self._run(grid[0], positional, named)

    def _run(self, num_programs: int, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = dict(zip(self._names, map(_argument, positional), strict=False)) | named
        arguments = [given[name] for name in self._names]
        self._num_programs = num_programs
        for self._program in range(num_programs):
            self.barriers.clear()
            with np.errstate(invalid="ignore"):
                self._kernel(*arguments)
            assert all(barrier.is_settled for barrier in self.barriers)

    def _allocate(self, dtype: Any, shape: list[int], layout: Any) -> Shared | list[Barrier]:
        if layout == "barrier":
            return _Ring([Barrier() for _ in range(shape[0])])
        return Shared(np.full(shape, np.nan, dtype))

    def _init(self, barrier: Barrier, count: int) -> None:
        barrier.count = barrier.pending = count
        self.barriers.append(barrier)

    def _language(self) -> dict[str, Any]:
        language = SimpleNamespace(
            int64=np.int64, float32=np.float32, constexpr=None,
            program_id=lambda _: self._program, num_programs=lambda _: self._num_programs,
            static_range=range,
            arange=lambda start, end, _: np.arange(start, end, dtype=np.int32).view(Array),
            zeros=lambda shape, dtype, _: np.zeros(shape, dtype).view(Array),
            full=lambda shape, value, dtype, _: np.full(shape, value, dtype).view(Array),
            load=_load, store=_store, convert_layout=lambda x, _: x, where=_where, exp2=np.exp2,
            minimum=np.minimum, maximum=np.maximum, sum=np.sum, max=np.max,
            NVMMASharedLayout=_nothing, NVMMADistributedLayout=_nothing, DotOperandLayout=_nothing,
            BlockedLayout=_nothing, SliceLayout=_nothing,
            allocate_shared_memory=self._allocate, warp_specialize=_in_threads,
        )  # fmt: skip
        barriers = SimpleNamespace(
            MBarrierLayout=lambda: "barrier", init=self._init, wait=Barrier.wait, expect=Barrier.expect,
            arrive=Barrier.arrive,
        )  # fmt: skip
        return {
            "gl": language, "mbarrier": barriers, "tma": SimpleNamespace(async_copy_global_to_shared=_copy),
            "warpgroup_mma": _multiply, "warpgroup_mma_wait": lambda _, deps: deps[0],
            "fence_async_shared": _nothing, "barrier": _nothing, "_WIDTH": 64,
        }  # fmt: skip


class Array(np.ndarray):
    """A tensor in registers, or a scalar."""

    def to(self, dtype: Any) -> Array:
        return np.asarray(self).astype(dtype).view(Array)


@dataclass(slots=True)
class Pointer:
    """Elements of a tensor."""

    elements: np.ndarray[Any, Any]
    offset: Any = 0

    @property
    def dtype(self) -> SimpleNamespace:
        return SimpleNamespace(element_ty=self.elements.dtype)

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.elements, self.offset + offset)


@dataclass(slots=True)
class Shared:
    """A piece of shared memory."""

    data: np.ndarray[Any, Any]

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def index(self, i: Any) -> Shared:
        assert 0 <= i < len(self.data)
        return Shared(self.data[i])

    def load(self, layout: Any) -> Array:
        return self.data.copy().view(Array)

    def store(self, x: Array) -> None:
        assert x.shape == self.data.shape
        self.data[:] = x

    def permute(self, order: list[int]) -> Shared:
        return Shared(self.data.transpose(order))

    def _reinterpret(self, dtype: Any, shape: list[int], layout: Any) -> _Tiles:
        return _Tiles(self.data.reshape(shape[0], -1, shape[1], self.data.shape[-1]))


@dataclass(slots=True)
class _Tiles:
    """Boxes [stages, halves, rows, columns of a half], to be read as tiles [rows, columns]."""

    data: np.ndarray[Any, Any]

    def index(self, i: Any) -> Shared:
        return Shared(np.concatenate(self.data[i], axis=-1))


class _Ring(list["Barrier"]):
    def index(self, i: Any) -> Barrier:  # type: ignore[override]
        return self[i]


@dataclass(slots=True)
class Barrier:
    """An mbarrier (PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier")."""

    count: int = 0
    pending: int = 0
    bytes: int = 0
    phase: int = 0
    """Of the phase under way."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def is_settled(self) -> bool:
        """Nothing is under way."""
        return self.bytes == 0 and self.pending == self.count

    def wait(self, parity: Any) -> None:
        """Until the phase of that parity is over: the one under way has the other."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.phase & 1 != parity, PATIENCE_S), "waited for ever"

    def arrive(self, count: int) -> None:
        self._count(count, 0)

    def expect(self, num_bytes: int) -> None:
        self._count(1, num_bytes)

    def complete(self, num_bytes: int) -> None:
        self._count(0, -num_bytes)

    def _count(self, arrivals: int, num_bytes: int) -> None:
        with self.changed:
            self.pending -= arrivals
            self.bytes += num_bytes
            assert self.pending >= 0, "more arrivals than the barrier counts"
            if self.pending == 0 and self.bytes == 0:
                self.pending, self.phase = self.count, self.phase + 1
                self.changed.notify_all()


def _argument(value: Any) -> Any:
    """What a launch makes of an argument."""
    if isinstance(value, Tensor):
        assert value.is_contiguous() or value.stride(-1) == 1
        whole = torch.as_strided(value, (value.untyped_storage().nbytes() // value.itemsize,), (1,), 0)
        return Pointer(whole.numpy(), value.storage_offset())
    return np.asarray(value, np.int32).view(Array) if type(value) is int else value


def _load(pointer: Pointer, mask: Any = True, other: float = 0) -> Array:
    at = np.where(mask, pointer.offset, 0)
    assert ((at >= 0) & (at < len(pointer.elements))).all()
    loaded = np.where(mask, pointer.elements[at], np.asarray(other, pointer.elements.dtype))
    return loaded.view(Array)


def _store(pointer: Pointer, x: Any, mask: Any) -> None:
    at, x, mask = np.broadcast_arrays(pointer.offset, x, mask)
    pointer.elements[at[mask]] = x[mask]


def _copy(source: Any, coordinates: list[Any], barrier: Barrier, box: Shared) -> None:
    """What TMA does, at once."""
    row, column = (int(x) for x in coordinates)
    rows, columns = source.block_shape
    assert 0 <= row <= source.shape[0] - rows
    assert box.data.shape == (rows, columns)
    box.data[:] = source.base.numpy()[row : row + rows, column : column + columns]
    barrier.complete(box.data.nbytes)


def _multiply(a: Any, b: Shared, sums: Array, use_acc: bool = True, is_async: bool = False) -> Array:
    product = _numbers(a).astype(np.float32) @ b.data.astype(np.float32)
    return (sums + product if use_acc else product).view(Array)


def _numbers(x: Any) -> np.ndarray[Any, Any]:
    return x.data if isinstance(x, Shared) else np.asarray(x)


def _where(condition: Any, x: Any, y: Any) -> Array:
    return np.where(condition, x, np.asarray(y, x.dtype)).view(Array)


def _in_threads(partitions: list[Any], num_warps: list[int], num_registers: list[int]) -> None:
    errors: list[BaseException] = []

    def run(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            with np.errstate(invalid="ignore"):
                function(*arguments)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=partition, daemon=True) for partition in partitions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _nothing(*_: Any) -> None:
    """What has no meaning here."""
