"""The `tokenwire` command: one function a subcommand, each importing only what it runs.

Whatever is wrong with the options is one line on standard error and exit code 2; other exit codes are the
subcommand's own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated

import typer

from tokenwire_services.launcher import options as opt
from tokenwire_services.launcher.open_files import allow_many_files
from tokenwire_services.launcher.standard_streams import finish_output, open_standard_streams

app = typer.Typer(
    help="Serve large language models as microservices.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LOOPBACK = "127.0.0.1"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    open_standard_streams()
    allow_many_files()
    try:
        code = app(arguments, prog_name="tokenwire", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error.format_message(), error.exit_code)
    except BrokenPipeError:  # whoever read what was written wants no more
        code = 1
    except OSError as error:  # a disk that is full
        code = _refuse(str(error), 1)
    finish_output()
    return code if isinstance(code, int) else 0


def _refuse(reason: str, exit_code: int) -> int:
    print(f"tokenwire: {' '.join(reason.split())}", file=sys.stderr)
    return exit_code


class OptionError(typer.TyperException):
    """Options that contradict each other, or a value that only the process's configuration can judge."""

    exit_code = 2


@contextmanager
def _options() -> Iterator[None]:
    """Where a configuration is built: what it refuses is an option error."""
    try:
        yield
    except ValueError as error:
        raise OptionError(str(error)) from None


@contextmanager
def _packages(process: str, extra: str, *imported_later: str) -> Iterator[None]:
    """Where a process's code is imported: a package that is missing is one of an extra."""
    try:
        yield
        for name in imported_later:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
    except ModuleNotFoundError as error:
        raise typer.TyperException(
            f"the {process} needs the Python package {error.name}; pip install 'tokenwire[{extra}]'"
        ) from None


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(f"tokenwire {version_of('tokenwire')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


@app.command()
def serve(
    model: opt.Model = None,
    host: opt.Host = LOOPBACK,
    port: opt.Port = 8000,
    tokenizer_port: opt.TokenizerPort = 50052,
    engine_port: opt.EnginePort = 50051,
    tokenizer_metrics_port: opt.TokenizerMetricsPort = None,
    engine_metrics_port: opt.EngineMetricsPort = None,
    served_model_name: opt.ServedModelName = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantization: opt.Quantization = None,
    cpu_instruction_set: opt.CpuInstructionSet = None,
    max_model_len: opt.MaxModelLen = None,
    max_running: opt.MaxRunning = 256,
    max_waiting: opt.MaxWaiting = 4096,
    policy: opt.Policy = "fcfs",
    max_step_tokens: opt.MaxStepTokens = None,
    block_size: opt.BlockSize = 16,
    prefix_cache: opt.PrefixCache = True,
    overlap: opt.Overlap = True,
    cuda_graphs: opt.CudaGraphs = True,
    kv_cache_dtype: opt.KvCacheDtype = "auto",
    kv_cache_memory: opt.KvCacheMemory = None,
    host_cache_memory: opt.HostCacheMemory = None,
    gpu_memory_utilization: opt.GpuMemoryUtilization = 0.9,
    session_grace_s: opt.SessionGraceS = 10.0,
    failover_timeout_s: opt.FailoverTimeoutS = 30.0,
    trust_request_chat_template: opt.TrustRequestChatTemplate = False,
    tool_parser: opt.ToolParser = "auto",
    reasoning_parser: opt.ReasoningParser = "auto",
    tokenizer_workers: opt.TokenizerWorkers = 1,
    gateway_workers: opt.GatewayWorkers = 1,
    api_key: opt.ApiKey = None,
    api_key_file: opt.ApiKeyFile = None,
    cors_origin: opt.CorsOrigin = None,
    max_body_bytes: opt.MaxBodyBytes = 16 << 20,
    request_timeout_s: opt.RequestTimeoutS = None,
    access_log: opt.AccessLog = False,
) -> int:
    """Serve a model on this machine: engine, tokenizer and gateway as three supervised processes."""
    from tokenwire_engine.config import EngineConfig
    from tokenwire_services.gateway.config import GatewayConfig
    from tokenwire_services.launcher.serve import serve as run
    from tokenwire_services.tokenizer.config import TokenizerConfig

    with _options():
        engine_config = EngineConfig(
            model=model,
            served_names=tuple(served_model_name or ()),
            host=LOOPBACK,
            port=engine_port,
            device=device,
            dtype=dtype,
            quantization=quantization,
            cpu_instruction_set=cpu_instruction_set,
            max_model_len=max_model_len,
            max_running=max_running,
            max_waiting=max_waiting,
            policy=policy,
            max_step_tokens=max_step_tokens,
            block_size=block_size,
            prefix_cache=prefix_cache,
            overlap=overlap,
            cuda_graphs=cuda_graphs,
            kv_cache_dtype=kv_cache_dtype,
            kv_cache_memory=kv_cache_memory,
            host_cache_memory=host_cache_memory,
            gpu_memory_utilization=gpu_memory_utilization,
            metrics_port=engine_metrics_port,
            session_grace_s=session_grace_s,
        )
        tokenizer_config = TokenizerConfig(
            engines=(f"{LOOPBACK}:{engine_port}",),
            host=LOOPBACK,
            workers=tokenizer_workers,
            port=tokenizer_port,
            metrics_port=tokenizer_metrics_port,
            session_grace_s=session_grace_s,
            failover_timeout_s=failover_timeout_s,
            trust_request_chat_template=trust_request_chat_template,
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
        )
        gateway_config = GatewayConfig(
            tokenizer=f"{LOOPBACK}:{tokenizer_port}",
            host=host,
            workers=gateway_workers,
            port=port,
            api_keys=tuple(api_key or ()),
            api_key_file=api_key_file,
            cors_origins=tuple(cors_origin or ()),
            max_body_bytes=max_body_bytes,
            request_timeout_s=request_timeout_s,
            failover_timeout_s=failover_timeout_s,
            access_log=access_log,
        )
    return run(engine_config, tokenizer_config, gateway_config)


@app.command()
def engine(
    model: opt.Model = None,
    host: opt.Host = LOOPBACK,
    port: opt.Port = 50051,
    metrics_host: opt.MetricsHost = LOOPBACK,
    metrics_port: opt.MetricsPort = None,
    served_model_name: opt.ServedModelName = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantization: opt.Quantization = None,
    cpu_instruction_set: opt.CpuInstructionSet = None,
    max_model_len: opt.MaxModelLen = None,
    max_running: opt.MaxRunning = 256,
    max_waiting: opt.MaxWaiting = 4096,
    policy: opt.Policy = "fcfs",
    max_step_tokens: opt.MaxStepTokens = None,
    block_size: opt.BlockSize = 16,
    prefix_cache: opt.PrefixCache = True,
    overlap: opt.Overlap = True,
    cuda_graphs: opt.CudaGraphs = True,
    kv_cache_dtype: opt.KvCacheDtype = "auto",
    kv_cache_memory: opt.KvCacheMemory = None,
    host_cache_memory: opt.HostCacheMemory = None,
    gpu_memory_utilization: opt.GpuMemoryUtilization = 0.9,
    session_grace_s: opt.SessionGraceS = 10.0,
    drain_timeout_s: opt.DrainTimeoutS = 5.0,
    print_kernels: opt.PrintKernels = False,
    status_fd: opt.StatusFd = None,
    parent_pid: opt.ParentPid = None,
) -> int:
    """Start an engine alone: token IDs in, token IDs out, over gRPC."""
    from tokenwire_engine.config import EngineConfig

    with _options():
        config = EngineConfig(
            model=model,
            served_names=tuple(served_model_name or ()),
            host=host,
            port=port,
            device=device,
            dtype=dtype,
            quantization=quantization,
            cpu_instruction_set=cpu_instruction_set,
            max_model_len=max_model_len,
            max_running=max_running,
            max_waiting=max_waiting,
            policy=policy,
            max_step_tokens=max_step_tokens,
            block_size=block_size,
            prefix_cache=prefix_cache,
            overlap=overlap,
            cuda_graphs=cuda_graphs,
            kv_cache_dtype=kv_cache_dtype,
            kv_cache_memory=kv_cache_memory,
            host_cache_memory=host_cache_memory,
            gpu_memory_utilization=gpu_memory_utilization,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            session_grace_s=session_grace_s,
            drain_timeout_s=drain_timeout_s,
            status_fd=status_fd,
        )
    with _packages("engine", "engine", "torch", "safetensors"):
        from tokenwire_engine.server.main import print_kernels as show
        from tokenwire_engine.server.main import run

    return show(config) if print_kernels else run(config)


@app.command()
def tokenizer(
    engine: opt.Engines = None,
    host: opt.Host = LOOPBACK,
    port: opt.Port = 50052,
    metrics_host: opt.MetricsHost = LOOPBACK,
    metrics_port: opt.MetricsPort = None,
    session_grace_s: opt.SessionGraceS = 10.0,
    failover_timeout_s: opt.FailoverTimeoutS = 30.0,
    trust_request_chat_template: opt.TrustRequestChatTemplate = False,
    tool_parser: opt.ToolParser = "auto",
    reasoning_parser: opt.ReasoningParser = "auto",
    workers: opt.Workers = 1,
    reuse_port: opt.ReusePort = False,
    status_fd: opt.StatusFd = None,
    parent_pid: opt.ParentPid = None,
) -> int:
    """Start a tokenizer service alone: text in, text out, over gRPC."""
    from tokenwire_services.tokenizer.config import TokenizerConfig

    with _options():
        config = TokenizerConfig(
            engines=tuple(engine or (f"{LOOPBACK}:50051",)),
            host=host,
            port=port,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            session_grace_s=session_grace_s,
            failover_timeout_s=failover_timeout_s,
            trust_request_chat_template=trust_request_chat_template,
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
            workers=workers,
            reuse_port=reuse_port,
            status_fd=status_fd,
        )
    with _packages("tokenizer", "services"):
        from tokenwire_services.tokenizer.main import run

    if workers > 1:
        from tokenwire_services.launcher.workers import run_workers

        return run_workers("tokenizer", config, {})
    return run(config)


@app.command()
def gateway(
    tokenizer: opt.Tokenizer = f"{LOOPBACK}:50052",
    host: opt.Host = LOOPBACK,
    port: opt.Port = 8000,
    api_key: opt.ApiKey = None,
    api_key_file: opt.ApiKeyFile = None,
    cors_origin: opt.CorsOrigin = None,
    max_body_bytes: opt.MaxBodyBytes = 16 << 20,
    request_timeout_s: opt.RequestTimeoutS = None,
    failover_timeout_s: opt.FailoverTimeoutS = 30.0,
    access_log: opt.AccessLog = False,
    workers: opt.Workers = 1,
    reuse_port: opt.ReusePort = False,
    status_fd: opt.StatusFd = None,
    parent_pid: opt.ParentPid = None,
) -> int:
    """Start a gateway alone: the OpenAI-style HTTP API."""
    from tokenwire_services.gateway.config import GatewayConfig

    with _options():
        config = GatewayConfig(
            tokenizer=tokenizer,
            host=host,
            port=port,
            api_keys=tuple(api_key or ()),
            api_key_file=api_key_file,
            cors_origins=tuple(cors_origin or ()),
            max_body_bytes=max_body_bytes,
            request_timeout_s=request_timeout_s,
            failover_timeout_s=failover_timeout_s,
            access_log=access_log,
            workers=workers,
            reuse_port=reuse_port,
            status_fd=status_fd,
        )
    with _packages("gateway", "services"):
        from tokenwire_services.gateway.main import run

    if workers > 1:
        from tokenwire_services.launcher.serve import API_KEY_VARIABLE
        from tokenwire_services.launcher.workers import run_workers

        keys = {API_KEY_VARIABLE: " ".join(config.api_keys) or None}
        return run_workers("gateway", config, keys)
    return run(config)


@app.command()
def chat(
    tokenizer: opt.Tokenizer = f"{LOOPBACK}:50052",
    model: opt.ChatModel = "",
    system: opt.System = "",
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    top_k: opt.TopK = None,
    max_tokens: opt.MaxTokens = None,
    seed: opt.Seed = None,
) -> int:
    """Chat in the terminal, straight with a tokenizer service."""
    from tokenwire.options import ChatOptions
    from tokenwire_services.launcher.chat import chat as run

    options: ChatOptions = {"model": model}
    if temperature is not None:
        options["temperature"] = temperature
    if top_p is not None:
        options["top_p"] = top_p
    if top_k is not None:
        options["top_k"] = top_k
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed
    return run(tokenizer, system, options)


@app.command()
def drain(
    engine: opt.Engine = f"{LOOPBACK}:50051",
    timeout_s: opt.TimeoutS = None,
    undo: opt.Undo = False,
) -> int:
    """Let an engine admit no more requests, and wait until it has none."""
    from tokenwire_services.launcher.drain import drain as run

    return run(engine, timeout_s, undo)
