"""Tool calls as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

A call is held back until it is complete, since only then is it known to be one: what turns out to be broken
comes out as the text that it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tokenwire_services.tokenizer.parsers.base import ParsedCall
from tokenwire_services.tokenizer.stop_strings import overlap

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(slots=True)
class HermesParser:
    """Parses one request's output. White space beside a call belongs to the call's syntax."""

    _held: str = field(default="", init=False)
    _calls: int = field(default=0, init=False)

    def push(self, text: str) -> list[str | ParsedCall]:
        """Take the next piece of output; return the text and calls that are complete, in order."""
        self._held += text
        pieces: list[str | ParsedCall] = []
        while (begin := self._held.find(OPEN)) >= 0 and (end := self._held.find(CLOSE, begin)) >= 0:
            end += len(CLOSE)
            self._take(begin, end, self._held[begin + len(OPEN) : end - len(CLOSE)], pieces)
        ready = begin if begin >= 0 else len(self._held) - overlap(self._held, OPEN)
        ready = len(self._held[:ready].rstrip())
        if ready:
            pieces.append(self._held[:ready])
            self._held = self._held[ready:]
        return pieces

    def flush(self) -> list[str | ParsedCall]:
        """The output ended: a call that lacks only its end tag, or the text that was held back."""
        pieces: list[str | ParsedCall] = []
        begin = self._held.find(OPEN)
        if begin >= 0:
            self._take(begin, len(self._held), self._held[begin + len(OPEN) :], pieces)
        if self._held and not (self._calls and self._held.isspace()):
            pieces.append(self._held)
        self._held = ""
        return pieces

    def _take(self, begin: int, end: int, body: str, pieces: list[str | ParsedCall]) -> None:
        """Move what was held back up to `end`, whose call begins at `begin`, to `pieces`."""
        call = parse_call(body)
        before = self._held[:begin].rstrip() if call else self._held[:end]
        if before:
            pieces.append(before)
        if call:
            pieces.append(call)
            self._calls += 1
        self._held = self._held[end:]


def parse_call(body: str) -> ParsedCall | None:
    """The call that the text between the tags is, None if it is none."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict):
        return None
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ParsedCall(name, json.dumps(arguments, ensure_ascii=False))
