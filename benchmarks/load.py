"""A load of streaming chats or completions over HTTP, by a client that reads sockets and parses no JSON.

Each stream is followed by another until a number of them was had; they begin one after another, evenly spread
over one stream's duration, so that requests arrive among running streams.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

Api = Literal["chat", "completions"]
"""What is asked for text: both name it alike in their events, and end alike."""
APIS: tuple[Api, ...] = get_args(Api)

_PATHS: dict[Api, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_EVENTS_BEFORE_TEXT: dict[Api, int] = {"chat": 1, "completions": 0}
"""A chat's first event says who speaks."""
_PATIENCE_S = 60.0
"""For one stream's next bytes."""
_EVENT = b"data: {"
_END = b"data: [DONE]"


@dataclass(slots=True)
class Load:
    """What a load saw.

    Attributes:
        seconds: from its begin to its end.
        events: that arrived, [DONE] aside: where each token's text has one of its own, as many as tokens, and
            for each stream one or two that frame its text.
        first_text_s: of each stream, from sending its request to the event with its first text.
        gaps_s: between the arrivals of a stream's text.
    """

    tokens: int
    seconds: float = 0.0
    events: int = 0
    first_text_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)


async def run(
    port: int,
    model: str,
    api: Api,
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
    request = _request(api, _body(api, model, tokens, prompt))
    begin = time.perf_counter()

    async def keep_one_going(number: int) -> None:
        await asyncio.sleep(spread_s * number / streams)
        for _ in range(rounds):
            await _stream(port, request, _EVENTS_BEFORE_TEXT[api], load)

    await asyncio.gather(*map(keep_one_going, range(streams)))
    load.seconds = time.perf_counter() - begin
    return load


def text(port: int, model: str, api: Api, tokens: int, prompt: str = "Say something.") -> str:
    """What one stream says, all of its JSON parsed.

    Raises:
        RuntimeError: it says nothing, or does not end as it should.
    """
    url, head = f"http://127.0.0.1:{port}{_PATHS[api]}", {"Content-Type": "application/json"}
    request = urllib.request.Request(url, _body(api, model, tokens, prompt), head)
    with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
        *events, end = [line.removeprefix(b"data: ").strip() for line in answer if line.startswith(b"data: ")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    said = "".join(_text_in(choice) for choice in choices)
    if not said or end != b"[DONE]" or choices[-1]["finish_reason"] != "length":
        raise RuntimeError(f"the stream said {said!r} and ended with {choices[-1:]}, {end!r}")
    return said


def _text_in(choice: dict[str, Any]) -> str:
    text: str | None = choice["delta"].get("content") if "delta" in choice else choice["text"]
    return text or ""


def _body(api: Api, model: str, tokens: int, prompt: str) -> bytes:
    asked = {"messages": [{"role": "user", "content": prompt}]} if api == "chat" else {"prompt": prompt}
    further = {"max_tokens": tokens, "ignore_eos": True, "stream": True}
    return json.dumps({"model": model, **asked, **further}).encode()


def _request(api: Api, body: bytes) -> bytes:
    head = (
        f"POST {_PATHS[api]} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _stream(port: int, request: bytes, events_before_text: int, load: Load) -> None:
    loop = asyncio.get_running_loop()
    _, reader = await loop.create_connection(
        lambda: _Reader(request, events_before_text, load), "127.0.0.1", port
    )
    await reader.ended
    load.events += reader.events
    if _END not in reader.tail:
        raise RuntimeError(f"the stream ended with {reader.tail!r}")


class _Reader(asyncio.Protocol):
    """One stream."""

    def __init__(self, request: bytes, events_before_text: int, load: Load) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.events = 0
        self.tail = b""
        self._request = request
        self._events_before_text = events_before_text
        self._load = load
        self._latest = 0.0
        self._has_text = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._latest = time.perf_counter()
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.events += (self.tail[1 - len(_EVENT) :] + data).count(_EVENT)
        self.tail = (self.tail + data)[-64:] if len(data) < 64 else data[-64:]
        if self._has_text:
            self._load.gaps_s.append(now - self._latest)
        elif self.events > self._events_before_text:
            self._has_text = True
            self._load.first_text_s.append(now - self._latest)
        else:
            return  # the response's head, or its first event, alone
        self._latest = now

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
