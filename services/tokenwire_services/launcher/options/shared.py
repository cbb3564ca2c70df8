"""Options that several processes or commands have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tokenwire_services.launcher.lifeline import die_with_parent
from tokenwire_services.launcher.sizes import parse_size


def size(value: str | int) -> int:
    """Bytes."""
    try:
        return parse_size(str(value))  # a default is a number already
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _follow(parent_pid: int | None) -> int | None:
    if parent_pid is not None:
        die_with_parent(parent_pid)
    return parent_pid


def port(purpose: str) -> Any:
    """What typer is told of an option that is a port."""
    return typer.Option(min=1, max=65535, help=purpose)


Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every interface.")]
Port = Annotated[int, port("Port to listen on.")]
MetricsHost = Annotated[str, typer.Option(help="Address on which metrics are served.")]
MetricsPort = Annotated[
    int | None, port("Port on which metrics are served to Prometheus. Left out: they are not measured.")
]
SessionGraceS = Annotated[
    float,
    typer.Option(help="Seconds for which a peer whose connection broke may come back to its requests."),
]
FailoverTimeoutS = Annotated[
    float,
    typer.Option(help="Seconds for which requests wait for a process that was lost, before they fail."),
]
SessionSocket = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Unix socket that serves sessions, too, to processes on this machine, which takes less CPU time "
        "than TCP: a path, or @ and a name. `serve` makes its own. Left out: none.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the port.")]
ReusePort = Annotated[bool, typer.Option("--reuse-port", hidden=True)]
StatusFd = Annotated[int | None, typer.Option(hidden=True)]
Tokenizer = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the tokenizer service.")]
Engine = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the engine.")]
ParentPid = Annotated[int | None, typer.Option(hidden=True, is_eager=True, callback=_follow)]
