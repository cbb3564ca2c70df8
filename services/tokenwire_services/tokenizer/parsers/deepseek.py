"""Tool calls as DeepSeek writes them: between marks, V3 and R1 with a Markdown block of JSON, V3.1 without.

    <｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Paris"}
    ```<｜tool▁call▁end｜>

    <｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>

All calls together are between `<｜tool▁calls▁begin｜>` and `<｜tool▁calls▁end｜>`.
"""

# ruff: noqa: RUF001 (the marks are written with these characters)
from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from tokenwire_services.tokenizer.parsers.base import CallBegin, Piece, split_at_mark
from tokenwire_services.tokenizer.parsers.json_call import Arguments

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
MARKS = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR)
_TYPED = re.compile(r"\s*function<｜tool▁sep｜>([^\n{]+)\n\s*```(?:json)?\s*(?=\{)")
_PLAIN = re.compile(r"\s*([^\s<{]+)<｜tool▁sep｜>\s*(?=\{)")
_MOST_HEAD = 512
"""No name is so long that this does not reach its arguments."""


class _State(Enum):
    TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    TAIL = auto()


@dataclass(slots=True)
class DeepSeekParser:
    """Parses one sample's output. White space beside calls belongs to their syntax."""

    _held: str = field(default="", init=False)
    _state: _State = field(default=_State.TEXT, init=False)
    _mark: str = field(default="", init=False)
    """What began the call that is being read, with the white space before it."""
    _arguments: Arguments = field(default_factory=Arguments, init=False)
    _num_calls: int = field(default=0, init=False)

    def push(self, text: str) -> list[Piece]:
        """Take the next piece of output; return what is known to be what, in order."""
        self._held += text
        pieces: list[Piece] = []
        while self._held and self._advance(pieces):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """The output ended: what is not known to be a call is text."""
        held, self._held = self._held, ""
        match self._state:
            case _State.HEAD:
                held = self._mark + held
            case _State.TAIL:
                held = held.strip().removeprefix("```")
        self._state = _State.TEXT
        return [held] if held and not (self._num_calls and held.isspace()) else []

    def _advance(self, pieces: list[Piece]) -> bool:
        match self._state:
            case _State.TEXT:
                return self._read_text(pieces)
            case _State.HEAD:
                return self._read_head(pieces)
            case _State.ARGUMENTS:
                rest = self._arguments.push(self._held, pieces)
                self._held = rest or ""
                if rest is not None:
                    self._state = _State.TAIL
                return rest is not None
            case _State.TAIL:
                return self._read_tail()

    def _read_text(self, pieces: list[Piece]) -> bool:
        """Text up to the next mark, which is dropped."""
        text, mark, self._held = split_at_mark(self._held, MARKS)
        if text:
            pieces.append(text)
        if mark.endswith(CALL_BEGIN):
            self._state, self._mark = _State.HEAD, mark
        return bool(mark)

    def _read_head(self, pieces: list[Piece]) -> bool:
        head = _TYPED.match(self._held)
        if head is None and not self._held.lstrip().startswith("function" + SEPARATOR):
            head = _PLAIN.match(self._held)
        if head is not None:
            pieces.append(CallBegin(head[1].strip()))
            self._num_calls += 1
            self._held = self._held[head.end() :]
            self._arguments, self._state = Arguments(stray="<"), _State.ARGUMENTS
            return True
        if len(self._held) <= _MOST_HEAD and CALL_END not in self._held:
            return False
        pieces.append(self._mark)
        self._state = _State.TEXT
        return True

    def _read_tail(self) -> bool:
        """The end of a call's Markdown block."""
        rest = self._held.lstrip()
        if "```".startswith(rest[:3]) and len(rest) < 3:
            return False
        self._held = rest.removeprefix("```")
        self._state = _State.TEXT
        return True
