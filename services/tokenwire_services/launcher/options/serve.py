"""The options of `serve`: those of all three processes, which it connects with each other on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenwire_services.launcher.options import shared
from tokenwire_services.launcher.options.engine import ENGINE as _ENGINE
from tokenwire_services.launcher.options.gateway import GATEWAY as _GATEWAY
from tokenwire_services.launcher.options.tokenizer import TOKENIZER as _TOKENIZER

ENGINE = _ENGINE.without("host", "session_socket", "metrics_host", "drain_timeout_s", "status_fd").renamed(
    port=(
        "engine_port",
        Annotated[int, shared.port("Port of the engine, on this machine only.")],
    ),
    metrics_port=(
        "engine_metrics_port",
        Annotated[
            int | None,
            shared.port(
                "Port on which the engine's metrics are served to Prometheus, on this machine only. "
                "Left out: they are not measured."
            ),
        ],
    ),
)
TOKENIZER = _TOKENIZER.without(
    "engine", "host", "session_socket", "metrics_host", "reuse_port", "status_fd"
).renamed(
    port=(
        "tokenizer_port",
        Annotated[int, shared.port("Port of the tokenizer service, on this machine only.")],
    ),
    metrics_port=(
        "tokenizer_metrics_port",
        Annotated[int | None, typer.Option(min=1, max=65535, help="The same for the tokenizer service.")],
    ),
    workers=(
        "tokenizer_workers",
        Annotated[int, typer.Option(min=1, help="Processes of the tokenizer service.")],
    ),
)
GATEWAY = _GATEWAY.without("tokenizer", "metrics_host", "reuse_port", "status_fd").renamed(
    metrics_port=(
        "gateway_metrics_port",
        Annotated[
            int | None,
            shared.port(
                "The same for the gateway, which has /metrics anyway; worth it with several workers."
            ),
        ],
    ),
    workers=("gateway_workers", Annotated[int, typer.Option(min=1, help="Processes of the gateway.")]),
)
