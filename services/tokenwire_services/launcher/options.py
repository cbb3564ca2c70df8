"""Every option of the `tokenwire` command, said once: its name, its type and what it does.

A command takes an option by annotating a parameter with the option's name here, so that `serve` and the
command that starts one process alone accept the same words and mean the same thing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenwire_services.launcher.lifeline import die_with_parent
from tokenwire_services.launcher.sizes import parse_size


def _size(value: str | int) -> int:
    try:
        return parse_size(str(value))  # a default is a number already
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _follow(parent_pid: int | None) -> int | None:
    if parent_pid is not None:
        die_with_parent(parent_pid)
    return parent_pid


# What to serve, and where it runs.
Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face checkpoint directory or hub id. Left out: the bundled demo model.",
        show_default=False,
    ),
]
ServedModelName = Annotated[
    list[str] | None,
    typer.Option(
        help="Name that requests use for the model; may be given several times. "
        "Left out: the hub id, or the directory's name.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto (CUDA when there is one), cpu, cuda or cuda:N.")]
Dtype = Annotated[
    str,
    typer.Option(help="auto (the checkpoint's on CUDA, bfloat16 on a CPU), float32, bfloat16 or float16."),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        help="int8 or int4: round the weights to so many bits while they are read.", show_default=False
    ),
]
CpuInstructionSet = Annotated[
    str | None,
    typer.Option(
        help="What the native CPU kernels use, such as avx2; torch: none of them. Left out: the CPU's best.",
        show_default=False,
    ),
]
PrintKernels = Annotated[
    bool, typer.Option("--print-kernels", help="Show what would compute the model here, and exit.")
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most tokens of prompt and output together. Left out: the model's limit.",
        show_default=False,
    ),
]
MaxRunning = Annotated[int, typer.Option(min=1, help="Most requests computed in one step; the others wait.")]
MaxWaiting = Annotated[
    int, typer.Option(min=0, help="Most requests queued beyond those; further ones are refused.")
]
Policy = Annotated[
    str, typer.Option(help="Who is served first: fcfs, priority, or fair (equal shares for all tenants).")
]
MaxStepTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most tokens computed in one step. Left out: up to 8192 on CUDA, 512 on a CPU, fewer while "
        "prompts would hold up decoding requests.",
        show_default=False,
    ),
]
BlockSize = Annotated[int, typer.Option(help="Tokens per KV cache block: 16, 32, 64 or 128.")]
PrefixCache = Annotated[
    bool,
    typer.Option(
        "--prefix-cache/--no-prefix-cache", help="Compute the common beginning of requests only once."
    ),
]
Overlap = Annotated[
    bool,
    typer.Option(
        "--overlap/--no-overlap", help="Plan and launch a step while the device computes the one before it."
    ),
]
CudaGraphs = Annotated[
    bool,
    typer.Option(
        "--cuda-graphs/--no-cuda-graphs",
        help="On a GPU, capture the steps of decodes once, and replay them.",
    ),
]
KvCacheDtype = Annotated[
    str,
    typer.Option(
        help="How keys and values are kept: auto (as the model computes), float32, bfloat16, float16, "
        "fp8 (on a GPU) or int8 (on a CPU)."
    ),
]
KvCacheMemory = Annotated[
    int | None,
    typer.Option(
        parser=_size,
        metavar="SIZE",
        help="Memory for the KV cache, such as 512MB or 4GiB. Left out: chosen from what is free.",
        show_default=False,
    ),
]
HostCacheMemory = Annotated[
    int | None,
    typer.Option(
        parser=_size,
        metavar="SIZE",
        help="Host memory for blocks that the prefix cache has to give up, such as 8GiB. Left out: none.",
        show_default=False,
    ),
]
GpuMemoryUtilization = Annotated[
    float,
    typer.Option(help="Share of the device's memory that weights, activations and KV cache may take."),
]
SessionGraceS = Annotated[
    float,
    typer.Option(help="Seconds for which a peer whose connection broke may come back to its requests."),
]
DrainTimeoutS = Annotated[
    float,
    typer.Option(
        help="Seconds for which requests may go on after SIGTERM; then they are handed back, to be continued "
        "elsewhere."
    ),
]
FailoverTimeoutS = Annotated[
    float,
    typer.Option(help="Seconds for which requests wait for a process that was lost, before they fail."),
]
TrustRequestChatTemplate = Annotated[
    bool,
    typer.Option(
        "--trust-request-chat-template", help="Let requests bring a chat template of their own, sandboxed."
    ),
]
ToolParser = Annotated[
    str,
    typer.Option(
        help="How the model writes tool calls: auto (by its chat template), none, harmony, deepseek, "
        "mistral, hermes, pythonic or llama3_json."
    ),
]
ReasoningParser = Annotated[
    str,
    typer.Option(
        help="How the model writes what it thinks: auto (by its chat template), none, think, harmony."
    ),
]

# Addresses.
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every interface.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
EnginePort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the engine, on this machine only.")]
TokenizerPort = Annotated[
    int, typer.Option(min=1, max=65535, help="Port of the tokenizer service, on this machine only.")
]
MetricsHost = Annotated[str, typer.Option(help="Address on which metrics are served.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Port on which metrics are served to Prometheus. Left out: they are not measured.",
        show_default=False,
    ),
]
EngineMetricsPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Port on which the engine's metrics are served to Prometheus, on this machine only. Left out: "
        "they are not measured.",
        show_default=False,
    ),
]
TokenizerMetricsPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="The same for the tokenizer service.",
        show_default=False,
    ),
]
Engine = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the engine.")]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        metavar="HOST:PORT",
        help="Address of an engine; may be given several times. Left out: 127.0.0.1:50051.",
        show_default=False,
    ),
]
Tokenizer = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the tokenizer service.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the port.")]
TokenizerWorkers = Annotated[int, typer.Option(min=1, help="Processes of the tokenizer service.")]
GatewayWorkers = Annotated[int, typer.Option(min=1, help="Processes of the gateway.")]
ReusePort = Annotated[bool, typer.Option("--reuse-port", hidden=True)]

# Who may ask.
ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        envvar="TOKENWIRE_API_KEY",
        help="Key that requests must present; may be given several times. Other users of the machine can "
        "read a command line: prefer the variable (keys separated by spaces) or --api-key-file.",
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="File of keys, one a line.", show_default=False),
]
CorsOrigin = Annotated[
    list[str] | None,
    typer.Option(
        help="Origin whose web pages may call the API, or *; may be given several times.", show_default=False
    ),
]

# What requests may cost.
MaxBodyBytes = Annotated[
    int, typer.Option(parser=_size, metavar="SIZE", help="Largest request body, such as 16MiB.")
]
RequestTimeoutS = Annotated[
    float | None,
    typer.Option(help="Seconds after which an unfinished request is cancelled.", show_default=False),
]
AccessLog = Annotated[bool, typer.Option("--access-log", help="Write a line for each HTTP request.")]

# How a supervised process finds its launcher.
StatusFd = Annotated[int | None, typer.Option(hidden=True)]
ParentPid = Annotated[int | None, typer.Option(hidden=True, is_eager=True, callback=_follow)]

# The terminal chat.
ChatModel = Annotated[
    str, typer.Option(help="Served model name. Left out: the only model.", show_default=False)
]
System = Annotated[str, typer.Option(help="System message to begin with.", show_default=False)]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.", show_default=False)
]
TopP = Annotated[
    float | None, typer.Option(help="Sample from the most likely tokens of this mass.", show_default=False)
]
TopK = Annotated[int | None, typer.Option(min=0, help="Sample from this many tokens.", show_default=False)]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens an answer has.", show_default=False)]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.", show_default=False)]

# Draining an engine.
TimeoutS = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Seconds for which requests may go on; then they are handed back, to be continued elsewhere. "
        "Left out: until they end.",
        show_default=False,
    ),
]
Undo = Annotated[bool, typer.Option("--undo", help="Admit requests again.")]
