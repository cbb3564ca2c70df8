"""HTTP/2 (RFC 9113) as far as one request on a connection of its own needs it: frames, flow control, headers.

Either end of it, without I/O: bytes from the peer go in, and `outgoing` collects those for it. What the peer
sends is credited as it arrives, so a reader that falls behind has to stop reading from the socket.

A session's messages are few and each waits for the one before, so what counts is what one costs: the gRPC
library hands each on to threads of its own three times, which here is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FIRST_STREAM = 1
"""Of those that a client begins."""
_NOT_BEGUN = -1
_HEAD_BYTES = 9
_LARGEST_FRAME = 1 << 14
"""In bytes; the default, which is left as it is for the peer and taken for ourselves."""
_DEFAULT_WINDOW = 65_535
_LARGEST_WINDOW = (1 << 31) - 1
_WINDOW = 4 << 20
"""Bytes that the peer may send before it needs credit."""
_MAX_HEADER_BYTES = 64 << 10

CANCEL = 0x8
"""The code of a reset by who no longer wants the response."""


class _Kind(IntEnum):
    """Of a frame."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RESET = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GO_AWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_HAS_PRIORITY = 0x20


class _Setting(IntEnum):
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


class Http2Error(Exception):
    """The peer does not follow the protocol, or refuses the request at its level; says how."""


class Http2Stream:
    """One request and its response, at one end of the connection. Made by `request` or `response`.

    Attributes:
        outgoing: to be written to the peer, by whoever takes it.
        headers: the peer's, in lower case; None before they came.
        trailers: what ended the peer's side, or its headers where they did.
        reset_code: what the peer reset the stream with.
    """

    def __init__(self, is_client: bool, settings: Iterable[tuple[_Setting, int]]) -> None:
        self.outgoing = bytearray(_PREFACE if is_client else b"")
        self.headers: dict[str, str] | None = None
        self.trailers: dict[str, str] | None = None
        self.reset_code: int | None = None
        self._is_client = is_client
        self._stream = _FIRST_STREAM if is_client else _NOT_BEGUN
        self._rest = b""
        """The beginning of a frame."""
        self._has_preface = is_client
        self._has_settings = False
        self._max_frame = _LARGEST_FRAME
        self._connection_window = self._stream_window = _DEFAULT_WINDOW
        """Bytes that may be sent."""
        self._initial_window = _DEFAULT_WINDOW
        self._uncredited = 0
        self._encoder = Encoder()
        self._decoder = Decoder(_MAX_HEADER_BYTES)
        self._header_block: bytearray | None = None
        """Of headers that go on in the next frame."""
        self._ends_with_headers = False
        self._add(_Kind.SETTINGS, 0, 0, b"".join(_int(2, name) + _int(4, value) for name, value in settings))
        self._add(_Kind.WINDOW_UPDATE, 0, 0, _int(4, _WINDOW - _DEFAULT_WINDOW))

    @classmethod
    def request(cls, headers: Iterable[tuple[str, str]]) -> Http2Stream:
        """The client's end, with the request's headers sent."""
        http2 = cls(True, [(_Setting.ENABLE_PUSH, 0), (_Setting.INITIAL_WINDOW_SIZE, _WINDOW)])
        http2.send_headers(headers)
        return http2

    @classmethod
    def response(cls) -> Http2Stream:
        """The server's end; `headers` will be the request's."""
        return cls(False, [(_Setting.MAX_CONCURRENT_STREAMS, 1), (_Setting.INITIAL_WINDOW_SIZE, _WINDOW)])

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.trailers is not None or self.reset_code is not None

    def send_headers(self, headers: Iterable[tuple[str, str]], is_end: bool = False) -> None:
        """Send headers, or the trailers that are the end; flow control does not hold them up."""
        flags = _END_HEADERS | (_END_STREAM if is_end else 0)
        self._add(_Kind.HEADERS, flags, self._stream, self._encoder.encode(headers))

    def send(self, data: bytes, begin: int = 0) -> int:
        """Put as much of `data[begin:]` into frames as flow control lets; where the rest begins."""
        while begin < len(data):
            room = min(self._max_frame, self._connection_window, self._stream_window)
            if room <= 0:
                break
            part = data[begin : begin + room]
            self._add(_Kind.DATA, 0, self._stream, part)
            self._connection_window -= len(part)
            self._stream_window -= len(part)
            begin += len(part)
        return begin

    def end(self) -> None:
        """Nothing more is sent."""
        self._add(_Kind.DATA, _END_STREAM, self._stream, b"")

    def reset(self, code: int) -> None:
        """Give the request up."""
        self._add(_Kind.RESET, 0, self._stream, _int(4, code))

    def go_away(self) -> None:
        """Take no more requests on this connection."""
        self._add(_Kind.GO_AWAY, 0, 0, _int(4, self._stream) + _int(4, 0))

    def ping(self) -> None:
        """Have the peer answer something."""
        self._add(_Kind.PING, 0, 0, bytes(8))

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes from the peer; the body's next parts.

        Raises:
            Http2Error: no more can be understood of this connection.
        """
        if self._rest:
            data = self._rest + data
        parts: list[bytes] = []
        begin, size = 0, len(data)
        if not self._has_preface:
            if not _PREFACE.startswith(data[: len(_PREFACE)]):
                raise Http2Error("it does not speak HTTP/2")
            if size < len(_PREFACE):
                self._rest = data
                return parts
            self._has_preface, begin = True, len(_PREFACE)
        while size - begin >= _HEAD_BYTES:
            body = begin + _HEAD_BYTES
            end = body + int.from_bytes(data[begin : begin + 3])
            if end - body > _LARGEST_FRAME:
                raise Http2Error("it does not speak HTTP/2, or sent a frame larger than allowed")
            if end > size:
                break
            kind, flags = data[begin + 3], data[begin + 4]
            stream = int.from_bytes(data[begin + 5 : body])
            if kind == _Kind.DATA and stream == self._stream and self._header_block is None:
                parts.append(self._data(flags, data[body:end]))
            else:
                self._on_frame(kind, flags, stream, data[body:end])
            begin = end
        self._rest = data[begin:]
        return parts

    def _data(self, flags: int, payload: bytes) -> bytes:
        self._uncredited += len(payload)
        if self._uncredited >= _WINDOW // 2:
            for stream in (0, self._stream):
                self._add(_Kind.WINDOW_UPDATE, 0, stream, _int(4, self._uncredited))
            self._uncredited = 0
        if not flags:
            return payload
        if flags & _END_STREAM and self.trailers is None:
            self.trailers = {}
        return _without_padding(flags, payload)

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self._has_settings and kind != _Kind.SETTINGS:
            raise Http2Error("it does not begin as HTTP/2 does")
        if (self._header_block is not None) != (kind == _Kind.CONTINUATION):
            raise Http2Error("a block of headers is broken off")
        match kind:
            case _Kind.DATA:
                raise Http2Error("it sends data of a stream that there is not")
            case _Kind.HEADERS:
                self._begin_headers(stream)
                payload = _without_padding(flags, payload)
                self._header_block = bytearray(payload[5:] if flags & _HAS_PRIORITY else payload)
                self._ends_with_headers = bool(flags & _END_STREAM)
                self._end_headers(flags)
            case _Kind.CONTINUATION:
                assert self._header_block is not None
                self._header_block += payload
                self._end_headers(flags)
            case _Kind.RESET if stream == self._stream:
                self.reset_code = int.from_bytes(payload)
            case _Kind.SETTINGS if not flags & _ACK:
                self._has_settings = True
                self._on_settings(payload)
            case _Kind.PING if not flags & _ACK:
                self._add(_Kind.PING, _ACK, 0, payload)
            case _Kind.GO_AWAY if self._is_client:  # of a server that drains; what it has begun it finishes
                if int.from_bytes(payload[:4]) < self._stream:
                    raise Http2Error("it takes no requests on this connection")
            case _Kind.WINDOW_UPDATE:
                self._on_window_update(stream, int.from_bytes(payload))
            case _Kind.PUSH_PROMISE:
                raise Http2Error("it pushes, which it was told not to")

    def _begin_headers(self, stream: int) -> None:
        if self._stream == _NOT_BEGUN and stream % 2:
            self._stream = stream
        if stream != self._stream:
            raise Http2Error("it begins another stream on the connection")

    def _end_headers(self, flags: int) -> None:
        assert self._header_block is not None
        if len(self._header_block) > _MAX_HEADER_BYTES:
            raise Http2Error("its headers are too large")
        if not flags & _END_HEADERS:
            return
        try:
            block = self._decoder.decode(bytes(self._header_block), raw=True)
            fields = {name.decode(): value.decode() for name, value in block}
        except (HPACKError, UnicodeDecodeError) as error:
            raise Http2Error(f"its headers cannot be read: {error}") from error
        self._header_block = None
        if self.headers is None:
            self.headers = fields
        if self._ends_with_headers:
            self.trailers = fields

    def _on_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            value = int.from_bytes(payload[at + 2 : at + 6])
            match int.from_bytes(payload[at : at + 2]):
                case _Setting.INITIAL_WINDOW_SIZE:
                    self._stream_window += value - self._initial_window
                    self._initial_window = value
                case _Setting.MAX_FRAME_SIZE:
                    self._max_frame = value
        self._add(_Kind.SETTINGS, _ACK, 0, b"")

    def _on_window_update(self, stream: int, increment: int) -> None:
        if stream == 0:
            self._connection_window += increment
        else:
            self._stream_window += increment
        if max(self._connection_window, self._stream_window) > _LARGEST_WINDOW:
            raise Http2Error("it gives more credit than there can be")

    def _add(self, kind: _Kind, flags: int, stream: int, payload: bytes) -> None:
        self.outgoing += len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _int(size: int, value: int) -> bytes:
    return value.to_bytes(size)


def _without_padding(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2Error("a frame has more padding than bytes")
    return payload[1 : len(payload) - payload[0]]
