"""Who is measured: this engine and its peers, in each precision they have, grouped so that like meets like.

A class holds the precisions that read about as many bytes per weight; ratios are taken within a class only.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workers import Worker

TOKENWIRE = "tokenwire"
CLASSES = ("float32", "16-bit", "8-bit", "4-bit")
PEERS = {
    "transformers": {"float32": "float32", "bfloat16": "16-bit"},
    "llama.cpp": {"f16": "16-bit", "bf16": "16-bit", "q8_0": "8-bit", "q4_0": "4-bit"},
    "vllm": {"float32": "float32", "bfloat16": "16-bit"},
}
"""The class of each precision of a peer, in the peer's own names."""
BITS_PER_WEIGHT = {
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "f16": 16,
    "bf16": 16,
    "int8": 8,
    "q8_0": 8.5,
    "int4": 4,
    "q4_0": 4.5,
}
"""What a weight's format takes: llama.cpp's with the scale of their block, this engine's without."""
_ENVIRONMENTS = Path("build/peers")
BOUND_THREADS = {"KMP_AFFINITY": "granularity=fine,compact", "KMP_BLOCKTIME": "5"}
"""What vLLM sets for its worker processes, for where the engine runs in a process of ours."""
_KV_CACHE_GIB = 2
_MAX_MODEL_LEN = 2048


@dataclass(slots=True, frozen=True)
class Contender:
    """One peer in one precision."""

    peer: str
    precision: str
    precision_class: str
    options: tuple[tuple[str, str], ...] = ()
    """Options of this engine, without their leading dashes."""

    @property
    def name(self) -> str:
        return f"{self.peer} {self.precision}"


def bits_read(peer: str, precision: str) -> float:
    """Of a weight, for each token: this engine keeps bfloat16 in 12 bits."""
    is_compact = (peer, precision) == (TOKENWIRE, "bfloat16")
    return 12 if is_compact else BITS_PER_WEIGHT[precision]


def tokenwire(options: str) -> Contender:
    """This engine with options such as `dtype=bfloat16,quantization=int8`.

    Raises:
        ValueError: an option has no value, or the precision is not among `BITS_PER_WEIGHT`.
    """
    pairs = []
    for option in options.split(","):
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"{option!r} is no option of this engine; expected name=value")
        pairs.append((name, value))
    given = dict(pairs)
    precision = given.get("quantization") or given.get("dtype", "float32")
    if precision not in BITS_PER_WEIGHT:
        raise ValueError(f"{precision!r} belongs to no class; expected one of {', '.join(BITS_PER_WEIGHT)}")
    bits = BITS_PER_WEIGHT[precision]
    return Contender(TOKENWIRE, precision, "float32" if bits == 32 else f"{bits}-bit", tuple(pairs))


def contenders(ours: list[Contender], peers: list[str]) -> dict[str, list[Contender]]:
    """By class: this engine first, then the peers that have a precision of the class.

    Raises:
        ValueError: a peer is unknown, or a class has this engine twice.
    """
    found: dict[str, list[Contender]] = {}
    for name in CLASSES:
        members = [contender for contender in ours if contender.precision_class == name]
        if len(members) > 1:
            raise ValueError(f"{members[0].name} and {members[1].name} are of one class; leave one out")
        if members:
            found[name] = members
    for peer in peers:
        if peer not in PEERS:
            raise ValueError(f"peer {peer!r} is unknown; expected {', '.join(PEERS)}")
        for precision, name in PEERS[peer].items():
            if name in found:
                found[name].append(Contender(peer, precision, name))
    return found


def start(contender: Contender, model: Path, threads: int) -> Worker:
    """Load the checkpoint in a process of the contender's own.

    Raises:
        FileNotFoundError: the peer's environment is not set up.
        RuntimeError: its process ended.
    """
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if contender.peer == TOKENWIRE:
        limits = {"kv-cache-memory": f"{_KV_CACHE_GIB}GiB", "max-model-len": str(_MAX_MODEL_LEN)}
        options = [f"--{name}={value}" for name, value in (limits | dict(contender.options)).items()]
        options.append("--no-prefix-cache")  # a sample that is taken again would find its prompts there
        return Worker([sys.executable, "-m", "benchmarks.peers.tokenwire", str(model), *options], environment)
    if contender.peer == "transformers":
        module = "benchmarks.peers.transformers"
        return Worker([sys.executable, "-m", module, str(model), contender.precision], environment)
    if contender.peer == "llama.cpp":
        from benchmarks.peers import gguf_file

        file = gguf_file.converted(model, contender.precision)
        command = [peer_python("llama.cpp"), "-m", "benchmarks.peers.llama_cpp", str(file), str(threads)]
        return Worker(command, environment)
    command = [peer_python("vllm"), "-m", "benchmarks.peers.vllm", str(model), contender.precision]
    return Worker(
        [*command, str(_MAX_MODEL_LEN)], environment | BOUND_THREADS | vllm_environment(_KV_CACHE_GIB)
    )


def peer_python(peer: str) -> str:
    """The interpreter of a peer's own environment.

    Raises:
        FileNotFoundError: it is not set up.
    """
    path = _ENVIRONMENTS / peer / ".venv" / "bin" / "python"
    if not path.exists():
        raise FileNotFoundError(f"{peer} is not set up; run `make bench-peers` first")
    return str(path)


def vllm_environment(kv_cache_gib: int) -> dict[str, str]:
    """What vLLM's documentation asks for on CPUs: Intel's OpenMP preloaded. Its compiled graphs stay near."""
    folder = (_ENVIRONMENTS / "vllm").resolve()
    return {
        "LD_PRELOAD": str(folder / ".venv" / "lib" / "libiomp5.so"),
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
