"""Everything an engine process is told, once, at its start.

Built from the command line, validated here, immutable afterwards. Light to import: no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire.duplex.unix import check_socket

MAX_COUNT = 2**31 - 1
MAX_RUNNING = 65_536
"""What is kept for each slot takes memory, whether it is in use or not."""
MAX_BYTES = 2**62
MAX_DELIVERY_INTERVAL_MS = 1000


@dataclass(slots=True, frozen=True)
class EngineConfig:
    """Options of one engine process.

    Raises:
        ValueError: on construction, naming the option, what it was, and what is allowed.
    """

    model: str | None = None
    """A local Hugging Face checkpoint directory, or a hub id. None: the bundled demo model."""
    served_names: tuple[str, ...] = ()
    """Names that requests may use. Empty: the hub id, or the directory's name."""
    host: str = "127.0.0.1"
    port: int = 50051
    session_socket: str | None = None
    """Unix socket that sessions may be opened at, too: a path, or "@" and a name. None: there is none."""
    device: str = "auto"
    """`auto` (CUDA when there is one), `cpu`, `cuda` or `cuda:N`."""
    dtype: str = "auto"
    """`auto` (the checkpoint's on CUDA, bfloat16 on a CPU), `float32`, `bfloat16` or `float16`."""
    quantization: str | None = None
    """`int8` or `int4`: weights are rounded to so many bits while they are read. None: they are not."""
    cpu_instruction_set: str | None = None
    """What the native CPU kernels use, such as `avx2`, or `torch`: none of them. None: the CPU's best."""
    max_model_len: int | None = None
    """Most tokens of prompt and output together. None: the model's own limit."""
    max_running: int = 256
    """Most requests computed in one step; the others wait."""
    max_waiting: int = 4096
    """Most requests queued beyond those; further ones are refused."""
    policy: str = "fcfs"
    """Who is served first: `fcfs`, `priority` or `fair` (equal shares for all tenants)."""
    max_step_tokens: int | None = None
    """Most tokens computed in one step. None: 8192 on CUDA, 512 on a CPU, and as few of prompts as it takes
    for decodes not to be held up."""
    block_size: int = 16
    """Tokens per KV cache block, a power of two from 16 to 128."""
    prefix_cache: bool = True
    """Whether requests share the blocks of a common beginning."""
    overlap: bool = True
    """Whether the next step is planned and launched while the device computes the one before it."""
    delivery_interval_ms: int | None = None
    """How long tokens of short steps may wait to be sent with those of the next. None: 20 on a CPU, where
    sending takes what computes; on CUDA they do not wait."""
    cuda_graphs: bool = True
    """Whether steps are captured once and replayed. On a CPU nothing is captured."""
    kv_cache_dtype: str = "auto"
    """How keys and values are kept: `auto` (as the model computes), `float32`, `bfloat16`, `float16`, `fp8`
    (e4m3, with a scale for each head) or `int8` (with a scale for each head of each token)."""
    kv_cache_memory: int | None = None
    """Bytes for the KV cache. None: chosen from the memory that is free."""
    host_cache_memory: int | None = None
    """Bytes of host memory for blocks that the prefix cache has to give up. None: they are lost."""
    gpu_memory_utilization: float = 0.9
    """Share of the device's memory that weights, activations and KV cache together may take."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Where Prometheus finds the engine's metrics. None: nothing is measured; 0: any free port."""
    session_grace_s: float = 10.0
    """Longest that a session is kept, with its requests, after its connection broke."""
    drain_timeout_s: float = 5.0
    """How long requests may go on after SIGTERM, before they are handed back."""
    status_fd: int | None = None
    """File descriptor on which start-up progress is written, one JSON object a line."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda") and not self.device.removeprefix("cuda:").isdigit():
            raise ValueError(f"--device is {self.device!r}; expected auto, cpu, cuda or cuda:N")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"--dtype is {self.dtype!r}; expected auto, float32, bfloat16 or float16")
        if self.kv_cache_dtype not in ("auto", "float32", "bfloat16", "float16", "fp8", "int8"):
            raise ValueError(
                f"--kv-cache-dtype is {self.kv_cache_dtype!r}; "
                "expected auto, float32, bfloat16, float16, fp8 or int8"
            )
        if self.quantization not in (None, "int8", "int4"):
            raise ValueError(f"--quantization is {self.quantization!r}; expected int8 or int4")
        if self.policy not in ("fcfs", "priority", "fair"):
            raise ValueError(f"--policy is {self.policy!r}; expected fcfs, priority or fair")
        if self.session_socket is not None:
            check_socket("--session-socket", self.session_socket)
        if self.metrics_port is not None and not 0 <= self.metrics_port < 65536:
            raise ValueError(f"--metrics-port is {self.metrics_port}; expected 0 to 65535")
        for name in self.served_names:
            if not name.strip() or not name.isprintable():
                raise ValueError(f"--served-model-name is {name!r}; expected a name that requests can give")
        if not 0 <= self.max_waiting <= MAX_COUNT:
            raise ValueError(f"--max-waiting is {self.max_waiting}; expected 0 to {MAX_COUNT}")
        for option, value, least, most in (
            ("--max-model-len", self.max_model_len, 2, MAX_COUNT),  # a prompt, and what it is continued with
            ("--max-running", self.max_running, 1, MAX_RUNNING),
            ("--max-step-tokens", self.max_step_tokens, 1, MAX_COUNT),
            ("--delivery-interval-ms", self.delivery_interval_ms, 0, MAX_DELIVERY_INTERVAL_MS),
            ("--kv-cache-memory", self.kv_cache_memory, 1, MAX_BYTES),
            ("--host-cache-memory", self.host_cache_memory, 1, MAX_BYTES),
        ):
            if value is not None and not least <= value <= most:
                raise ValueError(f"{option} is {value}; expected {least} to {most}")
        if self.block_size not in (16, 32, 64, 128):
            raise ValueError(f"--block-size is {self.block_size}; expected 16, 32, 64 or 128")
        if not 0 <= self.session_grace_s < 86_400:
            raise ValueError(f"--session-grace-s is {self.session_grace_s:g}; expected 0 to a day (86400)")
        if not 0 <= self.drain_timeout_s < 86_400:
            raise ValueError(f"--drain-timeout-s is {self.drain_timeout_s:g}; expected 0 to a day (86400)")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise ValueError(
                f"--gpu-memory-utilization is {self.gpu_memory_utilization}; expected more than 0, at most 1"
            )
