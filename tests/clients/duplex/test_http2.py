"""What a peer may send, in whatever pieces: another implementation's frames, read as they were meant."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded, StreamReset
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire.duplex.http2 import CANCEL, Http2Error, Http2Stream

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a/b"),
    (":authority", "x"),
    ("te", "trailers"),
]


def server() -> H2Connection:
    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    return connection


def begin() -> tuple[Http2Stream, H2Connection]:
    """A request that a server has received."""
    request, peer = Http2Stream.request(HEADERS), server()
    events = peer.receive_data(take(request))
    (received,) = [event for event in events if isinstance(event, RequestReceived)]
    assert [(name.decode(), value.decode()) for name, value in received.headers] == HEADERS
    request.receive(peer.data_to_send())
    peer.receive_data(take(request))
    return request, peer


def take(request: Http2Stream) -> bytes:
    data, request.outgoing = bytes(request.outgoing), bytearray()
    return data


@settings(deadline=None)
@given(
    parts=st.lists(st.tuples(st.binary(max_size=2000), st.integers(0, 255)), max_size=8),
    cuts=st.lists(st.integers(1, 500), min_size=1, max_size=20),
    message=st.text("abc ", max_size=300),
)
def test_a_response_reads_the_same_in_any_pieces(
    parts: list[tuple[bytes, int]], cuts: list[int], message: str
) -> None:
    request, peer = begin()
    peer.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    for part, padding in parts:
        peer.send_data(1, part, pad_length=padding or None)
    peer.ping(b"12345678")
    peer.send_headers(1, [("grpc-status", "0"), ("grpc-message", message.strip())], end_stream=True)
    wire, body, at, turn = peer.data_to_send(), b"", 0, 0
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        body += b"".join(request.receive(wire[at : at + size]))
        at, turn = at + size, turn + 1
    assert body == b"".join(part for part, _ in parts)
    assert request.headers == {":status": "200", "content-type": "application/grpc"}
    assert request.trailers == {"grpc-status": "0", "grpc-message": message.strip()}
    assert request.is_over
    peer.receive_data(take(request))


@settings(deadline=None)
@given(data=st.binary(max_size=200_000), credit=st.integers(1, 100_000))
def test_no_more_is_sent_than_the_peer_gives_credit_for(data: bytes, credit: int) -> None:
    request, peer = begin()
    sent = request.send(data)
    received = b""
    while True:
        for event in peer.receive_data(take(request)):  # which fails where credit is overdrawn
            if isinstance(event, DataReceived):
                received += event.data
        if sent == len(data):
            break
        assert len(received) == sent
        peer.increment_flow_control_window(credit)
        peer.increment_flow_control_window(credit, stream_id=1)
        request.receive(peer.data_to_send())
        sent = request.send(data, sent)
    assert received == data


def test_credit_is_given_for_what_arrives() -> None:
    request, peer = begin()
    peer.send_headers(1, [(":status", "200")])
    for _ in range(2000):  # 32 MB
        peer.send_data(1, bytes(16_000))
        assert request.receive(peer.data_to_send()) == [bytes(16_000)]
        peer.receive_data(take(request))


def test_smaller_windows_hold_for_what_is_open_already() -> None:
    request, peer = begin()
    assert request.send(bytes(60_000)) == 60_000
    peer.receive_data(take(request))
    peer.update_settings({4: 1000, 5: 20_000})
    request.receive(peer.data_to_send())
    peer.receive_data(take(request))
    assert request.send(b"x") == 0
    peer.increment_flow_control_window(100_000)
    peer.increment_flow_control_window(60_000, stream_id=1)
    request.receive(peer.data_to_send())
    assert request.send(bytes(70_000)) == 1000


def test_headers_that_take_several_frames() -> None:
    request, peer = begin()
    fields = [(":status", "200"), *((f"x-{number}", "y" * 1000) for number in range(40))]
    peer.send_headers(1, fields, end_stream=True)
    request.receive(peer.data_to_send())
    assert request.trailers == dict(fields)


def test_ends_and_resets_reach_the_peer_and_come_from_it() -> None:
    request, peer = begin()
    request.end()
    assert [type(event) for event in peer.receive_data(take(request))] == [DataReceived, StreamEnded]
    request.reset(CANCEL)
    (event,) = peer.receive_data(take(request))
    assert isinstance(event, StreamReset)
    assert event.error_code == CANCEL

    request, peer = begin()
    peer.reset_stream(1, 7)
    request.receive(peer.data_to_send())
    assert (request.is_over, request.reset_code) == (True, 7)


@settings(deadline=None)
@given(
    parts=st.lists(st.tuples(st.binary(max_size=2000), st.integers(0, 255)), max_size=8),
    cuts=st.lists(st.integers(1, 500), min_size=1, max_size=20),
)
def test_a_request_reads_the_same_in_any_pieces(parts: list[tuple[bytes, int]], cuts: list[int]) -> None:
    response, peer = Http2Stream.response(), H2Connection()
    peer.initiate_connection()
    peer.receive_data(take(response))
    peer.send_headers(1, HEADERS)
    for part, padding in parts:
        peer.send_data(1, part, pad_length=padding or None)
    peer.end_stream(1)
    wire, body, at, turn = peer.data_to_send(), b"", 0, 0
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        body += b"".join(response.receive(wire[at : at + size]))
        at, turn = at + size, turn + 1
    assert body == b"".join(part for part, _ in parts)
    assert response.headers == dict(HEADERS)
    assert response.trailers == {}

    response.send_headers([(":status", "200")])
    response.send(b"answer")
    response.send_headers([("grpc-status", "0")], is_end=True)
    events = [type(event) for event in peer.receive_data(take(response))]
    assert [kind for kind in events if kind in (ResponseReceived, DataReceived, StreamEnded)] == [
        ResponseReceived,
        DataReceived,
        StreamEnded,
    ]


def test_a_second_request_is_refused() -> None:
    response, peer = Http2Stream.response(), H2Connection()
    peer.initiate_connection()
    peer.send_headers(1, HEADERS)
    peer.send_headers(3, HEADERS)
    with pytest.raises(Http2Error, match="another stream"):
        response.receive(peer.data_to_send())


@pytest.mark.parametrize(
    "begin",
    [
        b"GET / HTTP/1.1",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\0\0\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\1\0\0\0\0\0\1x",
    ],
)
def test_a_request_that_does_not_begin_as_one_is_refused(begin: bytes) -> None:
    with pytest.raises(Http2Error):
        Http2Stream.response().receive(begin)


@pytest.mark.parametrize(
    "frames",
    [
        b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n",
        b"\0\0\4\x08\0\0\0\0\0\0\0\0\1",  # no settings first
        b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\7\0\0\0\0\0" + bytes(8),  # goes away before the request
        b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\x09\4\0\0\0\1",  # goes on with headers that did not begin
        b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\0\0\0\0\1\x88" + b"\0\0\0\0\0\0\0\0\1",  # headers broken off
        b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\4\0\0\0\1\xff",  # headers that are none
        b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\0\x08\0\0\0\1\5",  # more padding than bytes
        b"\0\0\0\4\0\0\0\0\0" + b"\0\0\4\x08\0\0\0\0\0\x7f\xff\xff\xff",  # more credit than there can be
    ],
)
def test_what_breaks_the_protocol_is_refused(frames: bytes) -> None:
    with pytest.raises(Http2Error):
        Http2Stream.request(HEADERS).receive(frames)
