"""The options of a gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.launcher.options import shared
from tokenwire_services.launcher.options.process_options import ProcessOptions

GATEWAY = ProcessOptions(
    GatewayConfig,
    {
        "tokenizer": Annotated[
            str,
            typer.Option(
                metavar="HOST:PORT[,SOCKET...]",
                help="Address of the tokenizer service, and its --session-socket where the session goes "
                "there, or those of all its workers.",
            ),
        ],
        "host": shared.Host,
        "port": shared.Port,
        "api_key": Annotated[
            list[str] | None,
            typer.Option(
                envvar="TOKENWIRE_API_KEY",
                help="Key that requests must present; may be given several times. Other users of the machine "
                "can read a command line: prefer the variable (keys separated by spaces) or --api-key-file.",
            ),
        ],
        "api_key_file": Annotated[
            Path | None,
            typer.Option(exists=True, dir_okay=False, help="File of keys, one a line."),
        ],
        "cors_origin": Annotated[
            list[str] | None,
            typer.Option(help="Origin whose web pages may call the API, or *; may be given several times."),
        ],
        "max_body_bytes": Annotated[
            int, typer.Option(parser=shared.size, metavar="SIZE", help="Largest request body, such as 16MiB.")
        ],
        "request_timeout_s": Annotated[
            float | None,
            typer.Option(help="Seconds after which an unfinished request is cancelled."),
        ],
        "failover_timeout_s": shared.FailoverTimeoutS,
        "metrics_host": shared.MetricsHost,
        "metrics_port": Annotated[
            int | None,
            shared.port(
                "Port on which this process's metrics are served, too; of several workers each has one, from "
                "this on. Left out: none but --port, at /metrics."
            ),
        ],
        "access_log": Annotated[
            bool, typer.Option("--access-log", help="Write a line for each HTTP request.")
        ],
        "workers": shared.Workers,
        "reuse_port": shared.ReusePort,
        "status_fd": shared.StatusFd,
    },
    fields={"api_key": "api_keys", "cors_origin": "cors_origins"},
)
