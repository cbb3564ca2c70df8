"""The options of an engine."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenwire_engine.config import EngineConfig
from tokenwire_services.launcher.options import shared
from tokenwire_services.launcher.options.process_options import ProcessOptions

ENGINE = ProcessOptions(
    EngineConfig,
    {
        "model": Annotated[
            str | None,
            typer.Argument(
                metavar="MODEL",
                help="A Hugging Face checkpoint directory or hub id. Left out: the bundled demo model.",
            ),
        ],
        "host": shared.Host,
        "port": shared.Port,
        "session_socket": shared.SessionSocket,
        "metrics_host": shared.MetricsHost,
        "metrics_port": shared.MetricsPort,
        "served_model_name": Annotated[
            list[str] | None,
            typer.Option(
                help="Name that requests use for the model; may be given several times. "
                "Left out: the hub id, or the directory's name.",
            ),
        ],
        "device": Annotated[str, typer.Option(help="auto (CUDA when there is one), cpu, cuda or cuda:N.")],
        "dtype": Annotated[
            str,
            typer.Option(
                help="auto (the checkpoint's on CUDA, bfloat16 on a CPU), float32, bfloat16 or float16."
            ),
        ],
        "quantization": Annotated[
            str | None,
            typer.Option(help="int8 or int4: round the weights to so many bits while they are read."),
        ],
        "cpu_instruction_set": Annotated[
            str | None,
            typer.Option(
                help="What the native CPU kernels use, such as avx2; torch: none of them. "
                "Left out: the CPU's best.",
            ),
        ],
        "max_model_len": Annotated[
            int | None,
            typer.Option(
                min=2,
                help="Most tokens of prompt and output together. Left out: the model's limit.",
            ),
        ],
        "max_running": Annotated[
            int, typer.Option(min=1, help="Most requests computed in one step; the others wait.")
        ],
        "max_waiting": Annotated[
            int, typer.Option(min=0, help="Most requests queued beyond those; further ones are refused.")
        ],
        "policy": Annotated[
            str,
            typer.Option(help="Who is served first: fcfs, priority, or fair (equal shares for all tenants)."),
        ],
        "max_step_tokens": Annotated[
            int | None,
            typer.Option(
                min=1,
                help="Most tokens computed in one step. Left out: up to 8192 on CUDA, 512 on a CPU, "
                "fewer while prompts would hold up decoding requests.",
            ),
        ],
        "block_size": Annotated[int, typer.Option(help="Tokens per KV cache block: 16, 32, 64 or 128.")],
        "prefix_cache": Annotated[
            bool,
            typer.Option(
                "--prefix-cache/--no-prefix-cache", help="Compute the common beginning of requests only once."
            ),
        ],
        "overlap": Annotated[
            bool,
            typer.Option(
                "--overlap/--no-overlap",
                help="Plan and launch a step while the device computes the one before it.",
            ),
        ],
        "delivery_interval_ms": Annotated[
            int | None,
            typer.Option(
                min=0,
                help="How long tokens of short steps may wait to be sent with those of the next; 0: every "
                "step is sent by itself. Left out: 20 on a CPU, 0 on CUDA.",
            ),
        ],
        "cuda_graphs": Annotated[
            bool,
            typer.Option(
                "--cuda-graphs/--no-cuda-graphs",
                help="On a GPU, capture steps once, at the start, and replay them.",
            ),
        ],
        "kv_cache_dtype": Annotated[
            str,
            typer.Option(
                help="How keys and values are kept: auto (as the model computes), float32, bfloat16, "
                "float16, fp8 (on a GPU) or int8 (on a CPU)."
            ),
        ],
        "kv_cache_memory": Annotated[
            int | None,
            typer.Option(
                parser=shared.size,
                metavar="SIZE",
                help="Memory for the KV cache, such as 512MB or 4GiB. Left out: chosen from what is free.",
            ),
        ],
        "host_cache_memory": Annotated[
            int | None,
            typer.Option(
                parser=shared.size,
                metavar="SIZE",
                help="Host memory for blocks that the prefix cache has to give up, such as 8GiB. "
                "Left out: none.",
            ),
        ],
        "gpu_memory_utilization": Annotated[
            float,
            typer.Option(
                help="Share of the device's memory that weights, activations and KV cache may take."
            ),
        ],
        "session_grace_s": shared.SessionGraceS,
        "drain_timeout_s": Annotated[
            float,
            typer.Option(
                help="Seconds for which requests may go on after SIGTERM; then they are handed back, "
                "to be continued elsewhere."
            ),
        ],
        "status_fd": shared.StatusFd,
    },
    fields={"served_model_name": "served_names"},
)
