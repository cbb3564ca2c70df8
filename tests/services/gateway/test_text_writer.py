"""Text that is written past a connection's transport."""

from __future__ import annotations

import asyncio
import socket

from tests.patience import PATIENCE_S, until
from tokenwire_services.gateway.text_writer import TextWriter, write_texts


async def connection() -> tuple[asyncio.Transport, socket.socket]:
    """A transport, and the socket at the connection's other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    return transport, theirs


async def test_an_event_is_a_chunk_with_the_text_as_json() -> None:
    transport, theirs = await connection()
    writer = TextWriter(transport, b"<", b">", lambda: None)
    write_texts([writer], ['"é"'])
    assert theirs.recv(100) == b'a\r\n<"\\"\xc3\xa9\\"">\r\n'
    assert writer.is_free
    transport.close()


async def test_what_a_full_socket_does_not_take_arrives_later_and_stops_the_writer() -> None:
    transport, theirs = await connection()
    stops: list[int] = []
    writer = TextWriter(transport, b"", b"", lambda: stops.append(1))
    texts = [character * 100_000 for character in "abcdefghij"]
    events = [b'186a2\r\n"%b"\r\n' % text.encode() for text in texts]
    for text, event in zip(texts, events, strict=True):
        if not stops:
            write_texts([writer], [text])
        else:  # as a response does
            transport.write(event)
    assert stops == [1]
    assert not writer.is_free
    received = b""
    while len(received) < sum(map(len, events)):
        loop = asyncio.get_running_loop()
        received += await asyncio.wait_for(loop.sock_recv(theirs, 1 << 20), PATIENCE_S)
    assert received == b"".join(events)
    await until(lambda: writer.is_free)
    transport.close()


async def test_a_connection_that_is_gone_stops_the_writer() -> None:
    transport, theirs = await connection()
    stops: list[int] = []
    writer = TextWriter(transport, b"", b"", lambda: stops.append(1))
    theirs.close()
    write_texts([writer], ["a"])
    assert stops == [1]
    transport.close()
    assert not writer.is_free
