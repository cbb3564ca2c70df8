"""What a captured step of decodes launches, found without a GPU.

The real executor computes steps of true-sized models on tensors that have no memory: whatever asked the
device for a value would fail there, as it would while a graph is captured. What is launched is counted: our
own kernels, in Triton and in CUDA C++, and those of PyTorch and its libraries.
`python -m benchmarks.launches` writes benchmarks/results/launches.md; `--compile` also compiles every kernel
of these steps in Triton for the assumed GPU, as it would be launched there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.compile import Usage, usage_of
from benchmarks.gpu.models import BLOCK_SIZE, CONFIGS, RandomModel, RandomWeights
from benchmarks.recording import Launch, recorded
from benchmarks.report import RESULTS, table
from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.decoder import load_decoder
from tokenwire_engine.models.families.registry import read_architecture
from tokenwire_engine.runner.graphs import CAPTURED_MODES, graph_sizes
from tokenwire_kernels import Kernels, triton
from tokenwire_kernels.cuda import few_rows, linear
from tokenwire_kernels.triton import hopper_attention
from tokenwire_kernels.triton.target import HOPPER, assuming

META = torch.device("meta")
MAX_ROWS = 256
SHOWN_ROWS = (1, 8, 64, 256)
_FREE = {
    "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand",
    "new_empty", "permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unsafe_split", "unsqueeze", "view",
}  # fmt: skip
"""Operations of PyTorch that launch nothing."""


@dataclass(slots=True)
class Work:
    """What one graph holds."""

    model: str
    rows: int
    part: str
    """`forward`, or how tokens are sampled."""
    kernels: int
    """Launches of our own."""
    library: int
    """Calls of PyTorch that launch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=[n for n in CONFIGS if n != "tiny"])
    parser.add_argument("--compile", action="store_true", help="compile every kernel, and print the usage")
    parser.add_argument("--json", action="store_true", help="print what was found; write no report")
    options = parser.parse_args()
    works: list[Work] = []
    launches: list[Launch] = []
    for name in options.models:
        found, made = step_of(name)
        works += found
        launches += made
    usages = compiled(launches) if options.compile else []
    if options.json:
        found_all = {"works": [asdict(work) for work in works], "usages": [asdict(usage) for usage in usages]}
        print(json.dumps(found_all))
        return
    page = report(works)
    (RESULTS / "launches.md").write_text(page)
    print(page)


def step_of(name: str) -> tuple[list[Work], list[Launch]]:
    """What every captured step of a model holds, and its launches."""
    modules = [import_module(f"{triton.__name__}.{module.name}") for module in iter_modules(triton.__path__)]
    counter = _Counter(modules)
    with assuming(HOPPER), torch.inference_mode(), patch.object(few_rows, "kernel_of", counter.kernel_of):
        model = _model(name)
        model.runner(model.allocate(MAX_ROWS * 64), MAX_ROWS, counter.count)
    parts = ["forward", "logits", *(mode.name.lower() for mode in CAPTURED_MODES)]
    captured = [(rows, part) for rows in reversed(graph_sizes(MAX_ROWS)) for part in parts]
    decodes = counter.counted[-len(captured) :]  # behind the passes of steps with prompts
    works = [
        Work(name, rows, part, len(launches) + of_cuda, calls)
        for (rows, part), (launches, of_cuda, calls) in zip(captured, decodes, strict=True)
        if part != "logits"  # of steps with prompts
    ]
    return works, [launch for launches, *_ in counter.counted for launch in launches]


class _Counter:
    """Stands for the capture of graphs."""

    def __init__(self, modules: list[ModuleType]) -> None:
        self.counted: list[tuple[list[Launch], int, int]] = []
        """Of each graph: Triton's launches, how many there are in CUDA C++, and the calls of PyTorch."""
        self._modules = modules
        self._of_cuda = 0

    def count(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do the work, and note what it launches."""
        calls = _Calls()
        self._of_cuda = 0
        with calls:
            launches = recorded("", self._modules, work)
        self.counted.append((launches, self._of_cuda, calls.number))
        return work

    def kernel_of(self, *_: object) -> _Counter:
        """In the place of a kernel of CUDA C++."""
        return self

    def launch(self, *_: object) -> None:
        """One more."""
        self._of_cuda += 1


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the calls of PyTorch that launch something."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function.overloadpacket.__name__ not in _FREE:
            self.number += 1
        return function(*args, **(kwargs or {}))


def compiled(launches: list[Launch]) -> list[Usage]:
    """The resources of every distinct kernel, compiled for the GPU that was assumed."""
    distinct = {f"{launch.kernel} {launch.specialization} {launch.options}": launch for launch in launches}
    return [usage_of(launch, HOPPER.capability) for launch in distinct.values()]


def report(works: list[Work]) -> str:
    """The counts as a Markdown page."""
    by_key = {(work.model, work.rows, work.part): work for work in works}
    parts = ["forward", *(mode.name.lower() for mode in CAPTURED_MODES)]
    rows = [
        [model, str(count), *(_shown(by_key[model, count, part]) for part in parts)]
        for model in dict.fromkeys(work.model for work in works)
        for count in SHOWN_ROWS
    ]
    header = ["model", "rows", "forward pass", *(f"sampling: {part}" for part in parts[1:])]
    lines = [
        "# What a captured step launches",
        "",
        "Counted without a GPU, for an H200, by `python -m benchmarks.launches`: our kernels + calls of",
        "PyTorch and its libraries. A step is the forward pass and one way of sampling.",
        "",
        table(header, rows),
    ]
    return "\n".join(lines) + "\n"


def _shown(work: Work) -> str:
    return f"{work.kernels} + {work.library}"


def _model(name: str) -> RandomModel:
    config = CONFIGS[name]
    _, architecture = read_architecture(ConfigFile(config))
    dtype = getattr(torch, config["dtype"])
    of_hopper = {"linear": linear.linear, "paged_attention": hopper_attention.paged_attention}
    kernels = Kernels(**{name: getattr(triton, name) for name in triton.__all__} | of_hopper)
    decoder = load_decoder(RandomWeights(META, dtype), architecture, 64 * BLOCK_SIZE, kernels, Shard())
    return RandomModel(name, architecture, decoder, kernels, META, dtype, dtype, 64 * BLOCK_SIZE)


if __name__ == "__main__":
    main()
