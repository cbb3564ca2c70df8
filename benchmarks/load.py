"""A load of streaming completions over HTTP, by a client that reads sockets and parses no JSON.

Each stream is followed by another until a number of them was had; they begin one after another, evenly spread
over one stream's duration, so that requests arrive among running streams.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import cast

_END = b"data: [DONE]"


@dataclass(slots=True)
class Load:
    """What a load saw.

    Attributes:
        seconds: from its begin to its end.
        first_text_s: of each stream, from sending its request to its first event.
        gaps_s: between the arrivals of a stream's text.
    """

    tokens: int
    seconds: float = 0.0
    first_text_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)


async def run(
    port: int,
    model: str,
    streams: int,
    rounds: int,
    tokens: int,
    spread_s: float,
    prompt: str = "Say something.",
) -> Load:
    """`streams` at a time, `rounds` times, of `tokens` tokens each; the first ones begin within `spread_s`.

    Raises:
        RuntimeError: a stream did not end as it should.
    """
    load = Load(streams * rounds * tokens)
    request = _request(model, tokens, prompt)
    begin = time.perf_counter()

    async def keep_one_going(number: int) -> None:
        await asyncio.sleep(spread_s * number / streams)
        for _ in range(rounds):
            await _stream(port, request, load)

    await asyncio.gather(*map(keep_one_going, range(streams)))
    load.seconds = time.perf_counter() - begin
    return load


def _request(model: str, tokens: int, prompt: str) -> bytes:
    body = json.dumps(
        {
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _stream(port: int, request: bytes, load: Load) -> None:
    loop = asyncio.get_running_loop()
    _, reader = await loop.create_connection(lambda: _Reader(request, load), "127.0.0.1", port)
    await reader.ended
    if _END not in reader.tail:
        raise RuntimeError(f"the stream ended with {reader.tail!r}")


class _Reader(asyncio.Protocol):
    """One stream."""

    def __init__(self, request: bytes, load: Load) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.tail = b""
        self._request = request
        self._load = load
        self._latest = 0.0
        self._has_text = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._latest = time.perf_counter()
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.tail = (self.tail + data)[-64:] if len(data) < 64 else data[-64:]
        if self._has_text:
            self._load.gaps_s.append(now - self._latest)
        elif b"data: " in data:
            self._has_text = True
            self._load.first_text_s.append(now - self._latest)
        else:
            return  # the response's head alone
        self._latest = now

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
