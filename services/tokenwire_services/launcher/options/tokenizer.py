"""The options of a tokenizer service."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenwire_services.launcher.options import shared
from tokenwire_services.launcher.options.process_options import ProcessOptions
from tokenwire_services.tokenizer.config import TokenizerConfig

TOKENIZER = ProcessOptions(
    TokenizerConfig,
    {
        "engine": Annotated[
            list[str] | None,
            typer.Option(
                "--engine",
                metavar="HOST:PORT[,SOCKET]",
                help="Address of an engine, and its --session-socket where the session goes there; may be "
                "given several times. Left out: 127.0.0.1:50051.",
            ),
        ],
        "host": shared.Host,
        "port": shared.Port,
        "session_socket": shared.SessionSocket,
        "metrics_host": shared.MetricsHost,
        "metrics_port": shared.MetricsPort,
        "session_grace_s": shared.SessionGraceS,
        "failover_timeout_s": shared.FailoverTimeoutS,
        "trust_request_chat_template": Annotated[
            bool,
            typer.Option(
                "--trust-request-chat-template",
                help="Let requests bring a chat template of their own, sandboxed.",
            ),
        ],
        "tool_parser": Annotated[
            str,
            typer.Option(
                help="How the model writes tool calls: auto (by its chat template), none, harmony, deepseek, "
                "mistral, hermes, pythonic or llama3_json."
            ),
        ],
        "reasoning_parser": Annotated[
            str,
            typer.Option(
                help="How the model writes what it thinks: auto (by its chat template), none, think, harmony."
            ),
        ],
        "workers": shared.Workers,
        "reuse_port": shared.ReusePort,
        "status_fd": shared.StatusFd,
    },
    fields={"engine": "engines"},
)
