"""The serving side of the core: which requests are live, and who hears of them.

Lives on the asyncio thread. Commands go to the core as they come; outputs come back once per step and are
passed on whole, one call for each channel that has any. An id stays taken until the core has said that its
request ended, so that nothing of an old request can reach a new one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from tokenwire.status import StatusError, resource_exhausted
from tokenwire_engine.core.commands import Cancel, Command, Hold, Resume, Submit
from tokenwire_engine.scheduler.outputs import ChannelOutput, Outputs
from tokenwire_engine.scheduler.request import Request

LEAST_RETRY_S, MOST_RETRY_S = 0.1, 60.0
RETRY_UNMEASURED_S = 5.0
"""When to come back to a full engine that has not finished a request yet."""


class Receiver(Protocol):
    """Who hears of a channel's requests."""

    def receive(self, output: ChannelOutput) -> None:
        """One step's output; the receiver may keep it. Must not block."""

    def fail(self, error: StatusError) -> None:
        """Nothing more will come."""


class Dispatcher:
    """Hands requests to the core and outputs to their receivers."""

    def __init__(
        self,
        send: Callable[[Command], None],
        max_live: int,
        estimate_wait_s: Callable[[], float | None],
    ) -> None:
        """
        Args:
            send: gives a command to the core.
            max_live: most requests that run or wait.
            estimate_wait_s: how long the requests that wait now will, None where that is not known.
        """
        self._send = send
        self._max_live = max_live
        self._estimate_wait_s = estimate_wait_s
        self._channels: dict[int, _Channel] = {}
        self._live: set[str] = set()
        self._numbers = itertools.count(1)
        self._closed: StatusError | None = None

    def open(self, receiver: Receiver) -> int:
        """A new channel, which `receiver` hears of.

        Raises:
            StatusError: after `fail_all`, with its error.
        """
        if self._closed is not None:
            raise self._closed
        channel = next(self._numbers)
        self._channels[channel] = _Channel(receiver)
        return channel

    def close(self, channel: int) -> None:
        """Forget a channel; its live requests are cancelled before the next step."""
        live = self._channels.pop(channel).live
        if live:
            self._send(Cancel(tuple(live)))

    def submit(self, request: Request) -> None:
        """Give a request to the core.

        Raises:
            StatusError: ALREADY_EXISTS when its id is in use, RESOURCE_EXHAUSTED when too many are live.
        """
        if request.request_id in self._live:
            raise StatusError(
                grpc.StatusCode.ALREADY_EXISTS,
                f"request_id: {request.request_id!r} is in use by a live request; choose another",
            )
        if len(self._live) >= self._max_live:
            raise self._full()
        self._live.add(request.request_id)
        self._channels[request.channel].live.add(request.request_id)
        self._send(Submit(request))

    def _full(self) -> StatusError:
        wait_s = self._estimate_wait_s()
        retry_s = RETRY_UNMEASURED_S if wait_s is None else min(max(wait_s, LEAST_RETRY_S), MOST_RETRY_S)
        return resource_exhausted(
            f"{len(self._live)} requests are running or queued, which is as many as the engine holds "
            f"(--max-running and --max-waiting); try again in {retry_s:.1f} seconds",
            retry_s,
        )

    def cancel(self, request_id: str) -> None:
        """End a request early; its end is delivered like any other."""
        self._send(Cancel((request_id,)))

    def hold(self, channel: int) -> None:
        """Set a channel's requests aside until `resume`; what is on its way still arrives."""
        self._send(Hold(channel))

    def resume(self, channel: int) -> None:
        """Let a channel's requests go on."""
        self._send(Resume(channel))

    def deliver(self, outputs: Outputs) -> None:
        """Pass on what the core's step yielded."""
        for number, output in outputs.items():
            channel = self._channels.get(number)
            for finished in output.finished:
                self._live.discard(finished.request_id)
                if channel is not None:
                    channel.live.discard(finished.request_id)
            if channel is not None:
                channel.receiver.receive(output)

    def fail_all(self, error: StatusError) -> None:
        """Tell every receiver, and whoever opens a channel from now on, that nothing more will come."""
        self._closed = error
        for channel in self._channels.values():
            channel.receiver.fail(error)


@dataclass(slots=True)
class _Channel:
    receiver: Receiver
    live: set[str] = field(default_factory=set)
    """Ids of its requests that have not ended."""
