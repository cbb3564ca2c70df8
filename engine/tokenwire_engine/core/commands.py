"""What the serving thread asks of the core thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenwire_engine.kv_cache.changes import Change
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
class HandBack:
    """End every request, for its caller to continue it elsewhere."""


@dataclass(slots=True, frozen=True)
class Hold:
    """Set a channel's requests aside, those to come included: whoever hears of them does not keep up."""

    channel: int


@dataclass(slots=True, frozen=True)
class Resume:
    """Let a channel's requests go on."""

    channel: int


@dataclass(slots=True, frozen=True)
class ResetPrefixCache:
    """Forget what the prefix cache holds."""

    done: Callable[[int], None]
    """Called on the core thread with the number of blocks forgotten; must not block."""


@dataclass(slots=True, frozen=True)
class WatchPrefixCache:
    """Say what the prefix cache holds now, and then whenever that has changed."""

    deliver: Callable[[list[Change]], object] | None
    """Called on the core thread, at most once a step; must not block. None: say nothing any more."""


@dataclass(slots=True, frozen=True)
class Shutdown:
    """Leave the loop after the step that runs."""


Command = Submit | Cancel | HandBack | Hold | Resume | ResetPrefixCache | WatchPrefixCache | Shutdown
