"""HTTP connections that nobody can hold open, or fill, for nothing.

A request's head arrives within a time and a size, whoever sends it: uvicorn bounds neither, and no key was
seen yet. What is not HTTP gets the API's own error body, and who would rather speak another protocol (Java's
client asks for HTTP/2 with every request) an answer in this one, as RFC 9110 has it (7.8). Whoever gets the
last answer while still sending has the time to read it, as RFC 9112 has it (9.6): a socket that is closed
resets the connection when more arrives, and the answer is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tokenwire_services.gateway.client import Client
from tokenwire_services.gateway.errors import ApiError

HEAD_TIMEOUT_S = 30.0
MAX_HEAD_BYTES = 64 << 10
"""On top of what one read from the socket brings."""
LINGER_S = 5.0
"""For whoever is still sending to read the last answer."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        """Runs while a head is awaited: from the connection's start, later from a head's first byte."""
        self._head_bytes: int | None = None
        """Of a head that is incomplete; None between heads."""
        self._unanswered: list[Client] = []
        """Of the request that is being answered, and of those that were sent without waiting for that."""
        self._is_lingering = False
        """Whether the last answer was sent."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self.access_log:
            super().connection_made(transport)
        else:  # as there, but for the addresses at its ends, which nothing else asks for
            self.connections.add(self)
            self.transport, self.flow, self.scheme = transport, FlowControl(transport), "http"
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        # uvicorn tells only the request that came last.
        self.pipeline.clear()
        for client in self._unanswered:
            if not client.is_answered:
                client.hang_up()
        self._unanswered.clear()
        self._linger_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"The request's head is larger than {MAX_HEAD_BYTES} bytes")
                return
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(400, "The request is not valid HTTP")
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body:
            return
        if cycle.transport is self.transport:
            cycle.transport = _LingeringTransport(self.transport, cycle, self._linger)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (head_length,) = upgrade.args
            self._parse(self._head_without_upgrade() + data[head_length:])

    def _head_without_upgrade(self) -> bytes:
        """The head that was parsed last, for it to be parsed as that of a request for an answer."""
        request_line = b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)
        headers = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([request_line, *headers, b"", b""])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._head_bytes = 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return  # it is parsed again, without that
        self._head_bytes = None
        self._stop_timer()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self._unanswered.append(Client(self.cycle))

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._linger_no_more()

    def on_response_complete(self) -> None:
        for client in self._unanswered:
            if client.is_answered:
                client.leave()
        self._unanswered = [client for client in self._unanswered if not client.is_answered]
        super().on_response_complete()

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_timeout(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timer()  # an earlier request is still being answered
        elif self._head_bytes is None:
            self.transport.close()
        else:
            self._refuse(408, f"The request's head did not arrive within {HEAD_TIMEOUT_S:g} seconds")

    def _refuse(self, status: int, message: str) -> None:
        """Answer without a request, unless within an answer, and close the connection."""
        if any(client.is_being_answered for client in self._unanswered):
            self.transport.close()
            return
        body = ApiError.from_http(status, message).body()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        for client in self._unanswered:
            client.hang_up()
        self.transport.write(head.encode() + body)
        self._linger()

    def _linger(self) -> None:
        """Close the connection as soon as its peer has, and soon anyway."""
        self._is_lingering = True
        self._stop_timer()
        self.pipeline.clear()
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _linger_no_more(self) -> None:
        """The request is here, or the connection is gone. A response and what stands for its transport know
        each other, so that both would stay, with all that they hold, until the garbage is collected."""
        if self.cycle is not None and isinstance(self.cycle.transport, _LingeringTransport):
            self.cycle.transport = self.transport


class _LingeringTransport(asyncio.Transport):
    """Stands for the transport of a response, as which it closes, unless the request is still arriving."""

    def __init__(
        self, transport: asyncio.Transport, cycle: RequestResponseCycle, linger: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._cycle = cycle
        self._linger = linger

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if self._cycle.more_body and not self._transport.is_closing():
            self._linger()
        else:
            self._transport.close()
