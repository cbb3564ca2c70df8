"""What gpt-oss writes (Harmony): messages in channels; the prompt begins the first one's header.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>

The channel `analysis` is reasoning; `final` is the answer; `commentary` with a recipient `functions.NAME` is
a call, and without one it is told to the user. (The `openai-harmony` package does the same from token IDs,
but fetches its vocabulary from the network when it is first used.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tokenwire_services.tokenizer.parsers.base import (
    CallArguments,
    CallBegin,
    Piece,
    Reasoning,
    overlap_any,
)
from tokenwire_services.tokenizer.parsers.json_call import Arguments

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
MARKS = (START, CHANNEL, MESSAGE, CONSTRAIN, END, CALL, RETURN)
_ENDS = (END, CALL, RETURN, START, CHANNEL)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")
_MOST_HEADER = 512


@dataclass(slots=True)
class HarmonyParser:
    """Parses one sample's output."""

    _held: str = field(default="", init=False)
    _header: bool = field(default=True, init=False)
    """Whether a message's header is being read, rather than its body."""
    _channel: str = field(default="final", init=False)
    _is_call: bool = field(default=False, init=False)
    _arguments: Arguments | None = field(default=None, init=False)
    """Of a call, until their JSON ends: marks in its strings are none."""

    def push(self, text: str) -> list[Piece]:
        """Take the next piece of output; return what is known to be what, in order."""
        self._held += text
        pieces: list[Piece] = []
        while self._held and (self._read_header(pieces) if self._header else self._read_body(pieces)):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """The output ended. A header without a message says nothing."""
        held, self._held = self._held, ""
        if self._header and (held.startswith((START, CHANNEL)) or not held.strip()):
            return []
        return [self._piece(held)] if held else []

    def _read_header(self, pieces: list[Piece]) -> bool:
        """From the end of one message to the beginning of the next one's body."""
        start = self._held.lstrip()
        if not start:
            return False
        begins = (CHANNEL, START, "to=", "assistant")
        if not any(mark.startswith(start) or start.startswith(mark) for mark in begins):
            # No header at all: it is the answer.
            self._header, self._channel, self._is_call = False, "final", False
            return True
        at = self._held.find(MESSAGE)
        if at < 0 and len(self._held) <= _MOST_HEADER:
            return False
        if at < 0:
            self._header, self._channel, self._is_call = False, "final", False
            return True
        header, self._held = self._held[:at], self._held[at + len(MESSAGE) :]
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        self._channel = channel[1] if channel else "final"
        self._is_call = recipient is not None
        if recipient:
            pieces.append(CallBegin(recipient[1]))
            self._arguments = Arguments(stray="<")
        self._header = False
        return True

    def _read_body(self, pieces: list[Piece]) -> bool:
        if self._arguments is not None:
            rest = self._arguments.push(self._held, pieces)
            self._held = rest or ""
            if rest is None:
                return False
            self._arguments = None
        places = [(self._held.find(mark), mark) for mark in _ENDS if mark in self._held]
        at, mark = min(places, default=(len(self._held) - overlap_any(self._held, _ENDS), ""))
        if at:
            pieces.append(self._piece(self._held[:at]))
        self._held = self._held[at:] if mark in ("", START, CHANNEL) else self._held[at + len(mark) :]
        self._header = bool(mark)
        return bool(mark)

    def _piece(self, text: str) -> Piece:
        if self._is_call:
            return CallArguments(text)
        return Reasoning(text) if self._channel == "analysis" else text
