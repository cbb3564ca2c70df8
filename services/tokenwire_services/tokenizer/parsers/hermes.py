"""Tool calls as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenwire_services.tokenizer.parsers.base import Piece, split_at_mark
from tokenwire_services.tokenizer.parsers.json_call import JsonCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(slots=True)
class HermesParser:
    """Parses one sample's output. White space beside a call belongs to the call's syntax."""

    _held: str = field(default="", init=False)
    _call: JsonCall | None = field(default=None, init=False)
    """The call that is being read."""
    _mark: str = field(default="", init=False)
    """Its opening tag, with the white space before it."""
    _awaits_close: bool = field(default=False, init=False)
    """Whether a call's end tag is still to come."""
    _num_calls: int = field(default=0, init=False)

    def push(self, text: str) -> list[Piece]:
        """Take the next piece of output; return what is known to be what, in order."""
        self._held += text
        pieces: list[Piece] = []
        while self._advance(pieces):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """The output ended: what was held back is text, but for a call's own white space."""
        held, self._held = self._held, ""
        if self._call is not None and not self._call.is_call:
            held = self._mark + self._call.held + held
        elif self._awaits_close and CLOSE.startswith(held.strip()):
            held = ""
        self._call = None
        return [held] if held and not (self._num_calls and held.isspace()) else []

    def _advance(self, pieces: list[Piece]) -> bool:
        """Take one thing off what is held; False when it takes more text to tell what it is."""
        if self._call is not None:
            return self._read_call(self._call, pieces)
        marks = (OPEN, CLOSE) if self._awaits_close else (OPEN,)
        text, mark, self._held = split_at_mark(self._held, marks)
        if text:
            pieces.append(text)
        if mark.endswith(OPEN):
            self._call, self._mark = JsonCall(stray="<"), mark
        if mark:
            self._awaits_close = False
        return bool(mark)

    def _read_call(self, call: JsonCall, pieces: list[Piece]) -> bool:
        text, self._held = self._held, ""
        if not text:
            return False
        if not call.is_call and not (call.held + text).lstrip().startswith("{"):
            if (call.held + text).isspace():
                call.held += text
                return False
            self._give_up(call, text, pieces)
            return True
        rest = call.push(text, pieces)
        if rest is None:
            return False
        if not call.is_call:
            self._give_up(call, rest, pieces)
            return True
        self._call, self._held = None, rest
        self._num_calls += 1
        self._awaits_close = True
        return True

    def _give_up(self, call: JsonCall, rest: str, pieces: list[Piece]) -> None:
        """It was no call: the text of its tag is text, and what follows may hold the next one."""
        self._call = None
        pieces.append(self._mark)
        self._held = call.held + rest
