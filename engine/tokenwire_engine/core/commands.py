"""What the serving thread asks of the core thread."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire_engine.scheduler.request import Request


@dataclass(slots=True, frozen=True)
class Submit:
    """Queue a request."""

    request: Request


@dataclass(slots=True, frozen=True)
class Cancel:
    """End requests, whatever their state. Ids of requests that have ended are passed over."""

    request_ids: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class Shutdown:
    """Leave the loop after the step that runs."""


Command = Submit | Cancel | Shutdown
