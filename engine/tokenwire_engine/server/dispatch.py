"""The serving side of the core: which requests are live, and who hears of them.

Lives on the asyncio thread. Commands go to the core as they come; outputs come back at most once per step and
are passed on whole, one call for each channel that has any. An id stays taken until the core has said that
its request ended, so that nothing of an old request can reach a new one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from tokenwire.status import StatusError, invalid_argument, resource_exhausted
from tokenwire_engine.core.commands import Cancel, Command, HandBack, Hold, Resume, Submit
from tokenwire_engine.scheduler.outputs import ChannelOutput, Outputs
from tokenwire_engine.scheduler.request import FinishReason, Request
from tokenwire_engine.server.finish import handed_back

LEAST_RETRY_S, MOST_RETRY_S = 0.1, 60.0
RETRY_UNMEASURED_S = 5.0
"""When to come back to a full engine that has not finished a request yet."""


class Receiver(Protocol):
    """Who hears of a channel's requests."""

    @property
    def is_flushed(self) -> bool:
        """Whether its peer, if it is there, has been sent all that the receiver heard of."""

    def receive(self, output: ChannelOutput) -> None:
        """One step's output; the receiver may keep it. Must not block."""

    def fail(self, error: StatusError) -> None:
        """Nothing more will come."""


class Dispatcher:
    """Hands requests to the core and outputs to their receivers.

    Attributes:
        num_ended: requests that have ended, those handed back included.
        num_handed_back: requests that the core handed back.
    """

    def __init__(
        self,
        send: Callable[[Command], None],
        max_live: int,
        estimate_wait_s: Callable[[], float | None],
    ) -> None:
        """
        Args:
            send: gives a command to the core.
            max_live: most requests that run or wait, each sample of one counted.
            estimate_wait_s: how long the requests that wait now will, None where that is not known.
        """
        self._send = send
        self._max_live = max_live
        self._estimate_wait_s = estimate_wait_s
        self._channels: dict[int, _Channel] = {}
        self.num_ended = 0
        self.num_handed_back = 0
        self._live: set[str] = set()
        self._num_live = 0
        """Samples of them that have not ended."""
        self._has_ended = asyncio.Event()
        self._admits = True
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

    def submit(self, request: Request, continued_request_id: str = "") -> None:
        """Give a request to the core, in the place of the one that it continues if that is live.

        Raises:
            StatusError: INVALID_ARGUMENT when it has too many samples, ALREADY_EXISTS when its id is in use,
                RESOURCE_EXHAUSTED when too many are live, UNAVAILABLE while none is admitted.
        """
        if request.num_samples > self._max_live:
            raise invalid_argument(
                "sampling.num_samples",
                f"{request.num_samples} are more requests than the engine holds at a time, which is "
                f"{self._max_live} (--max-running and --max-waiting); ask for fewer",
            )
        if not self._admits:
            message = "the engine is draining and admits no requests; try another, or later"
            raise handed_back(message, len(request.output_token_ids))
        if request.request_id in self._live:
            raise StatusError(
                grpc.StatusCode.ALREADY_EXISTS,
                f"request_id: {request.request_id!r} is in use by a live request; choose another",
            )
        if continued_request_id in self._live:
            self.cancel(continued_request_id)
        elif self._num_live + request.num_samples > self._max_live:
            raise self._full()
        self._num_live += request.num_samples
        self._live.add(request.request_id)
        self._channels[request.channel].live.add(request.request_id)
        self._send(Submit(request))

    def _full(self) -> StatusError:
        wait_s = self._estimate_wait_s()
        retry_s = RETRY_UNMEASURED_S if wait_s is None else min(max(wait_s, LEAST_RETRY_S), MOST_RETRY_S)
        return resource_exhausted(
            f"{self._num_live} requests (each sample counted) are running or queued, and the engine holds "
            f"{self._max_live} (--max-running and --max-waiting); try again in {retry_s:.1f} seconds",
            retry_s,
        )

    def cancel(self, request_id: str) -> None:
        """End a request early; its end is delivered like any other."""
        self._send(Cancel((request_id,)))

    def stop_admitting(self) -> None:
        """Refuse requests from now on; those that are live go on."""
        self._admits = False

    def admit(self) -> None:
        """Take requests again."""
        self._admits = True

    def hand_back(self) -> None:
        """End every request, for its caller to continue it elsewhere."""
        self._send(HandBack())

    async def until_idle(self) -> None:
        """Return once no request is live.

        Raises:
            StatusError: after `fail_all`, with its error.
        """
        while self._live:
            if self._closed is not None:
                raise self._closed
            self._has_ended.clear()
            await self._has_ended.wait()

    @property
    def is_flushed(self) -> bool:
        """Whether every peer that is there has been sent what was produced for it."""
        return all(channel.receiver.is_flushed for channel in self._channels.values())

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
                self._num_live -= 1
                if not finished.is_last:
                    continue
                self._live.discard(finished.request_id)
                self.num_ended += 1
                self.num_handed_back += finished.reason is FinishReason.HANDED_BACK
                if channel is not None:
                    channel.live.discard(finished.request_id)
            if channel is not None:
                channel.receiver.receive(output)
        self._has_ended.set()

    def fail_all(self, error: StatusError) -> None:
        """Tell every receiver, and whoever opens a channel from now on, that nothing more will come."""
        self._closed = error
        self._has_ended.set()
        for channel in self._channels.values():
            channel.receiver.fail(error)


@dataclass(slots=True)
class _Channel:
    receiver: Receiver
    live: set[str] = field(default_factory=set)
    """Ids of its requests that have not ended."""
