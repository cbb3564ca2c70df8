"""Tool calls as Mistral writes them: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, and in newer
models `[TOOL_CALLS]name[ARGS]{...}`, or the same without `[ARGS]`, once for each call.
"""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from enum import Enum, auto

from tokenwire_services.tokenizer.parsers.base import CallBegin, Piece, split_at_mark
from tokenwire_services.tokenizer.parsers.json_call import Arguments, JsonCall

TOOL_CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\])?\s*(?=\{)")
_MAY_BE_NAMED = re.compile(r"\s*[\w.-]*\s*(?:\[[A-Z_]*\]?[^\[{]*)*\s*")
_ID_ALPHABET = string.ascii_letters + string.digits


def call_id() -> str:
    """Mistral's chat templates take ids of nine letters and digits, and no others."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(9))


class _State(Enum):
    TEXT = auto()
    BEGIN = auto()
    LIST = auto()
    CALL = auto()
    ARGUMENTS = auto()


@dataclass(slots=True)
class MistralParser:
    """Parses one sample's output. White space beside calls belongs to their syntax."""

    _held: str = field(default="", init=False)
    _state: _State = field(default=_State.TEXT, init=False)
    _mark: str = field(default="", init=False)
    """What was taken for markup since the last call, and is text if none follows."""
    _call: JsonCall = field(default_factory=JsonCall, init=False)
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
        held = self._mark + self._held
        match self._state:
            case _State.CALL:
                held = "" if self._call.is_call else self._mark + self._call.held + self._held
            case _State.ARGUMENTS:
                held = ""
            case _State.LIST if self._num_calls:
                held = self._held
        self._held = self._mark = ""
        self._state = _State.TEXT
        return [held] if held and not (self._num_calls and held.isspace()) else []

    def _advance(self, pieces: list[Piece]) -> bool:
        match self._state:
            case _State.TEXT:
                return self._read_text(pieces)
            case _State.BEGIN:
                return self._read_begin(pieces)
            case _State.LIST:
                return self._read_list(pieces)
            case _State.CALL:
                return self._read_call(pieces)
            case _State.ARGUMENTS:
                rest = self._arguments.push(self._held, pieces)
                self._held = rest or ""
                if rest is not None:
                    self._state = _State.TEXT
                return rest is not None

    def _read_text(self, pieces: list[Piece]) -> bool:
        text, self._mark, self._held = split_at_mark(self._held, (TOOL_CALLS,))
        if text:
            pieces.append(text)
        if self._mark:
            self._state = _State.BEGIN
        return bool(self._mark)

    def _read_begin(self, pieces: list[Piece]) -> bool:
        start = self._held.lstrip()
        if start.startswith("[") and not any(mark.startswith(start[:2]) for mark in (ARGS, CALL_ID)):
            if len(start) == 1:
                return False
            self._move(start[1:])
            self._state = _State.LIST
            return True
        if named := _NAMED.match(self._held):
            pieces.append(CallBegin(named[1]))
            self._num_calls += 1
            self._held, self._mark = self._held[named.end() :], ""
            self._arguments, self._state = Arguments(), _State.ARGUMENTS
            return True
        if _MAY_BE_NAMED.fullmatch(self._held):
            return False
        return self._give_up(pieces)

    def _read_list(self, pieces: list[Piece]) -> bool:
        start = self._held.lstrip(" \t\r\n,")
        if not start:
            return False
        if start[0] == "{":
            self._move(start)
            self._call, self._state = JsonCall(), _State.CALL
            return True
        if start[0] == "]" and self._num_calls:
            self._held, self._mark, self._state = start[1:], "", _State.TEXT
            return True
        return self._give_up(pieces)

    def _read_call(self, pieces: list[Piece]) -> bool:
        text, self._held = self._held, ""
        rest = self._call.push(text, pieces)
        if rest is None:
            return False
        self._held = rest
        if not self._call.is_call:
            self._held = self._call.held + rest
            return self._give_up(pieces)
        self._num_calls += 1
        self._mark, self._state = "", _State.LIST
        return True

    def _move(self, rest: str) -> None:
        """All of what is held but `rest` is markup, so far."""
        self._mark += self._held[: len(self._held) - len(rest)]
        self._held = rest

    def _give_up(self, pieces: list[Piece]) -> bool:
        """No call follows the markup: it is text."""
        if self._mark:
            pieces.append(self._mark)
        self._mark, self._state = "", _State.TEXT
        return True
