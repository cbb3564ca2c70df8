"""Tool calls that are written as JSON objects, read as they come: `{"name": ..., "arguments": {...}}`.

The arguments of a call that begins with its name are passed on piece by piece. Any other order is known to be
a call only when the object is complete.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import Enum, auto

from tokenwire_services.tokenizer.parsers.base import CallArguments, CallBegin, Piece

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL
)
_SPACE = " \t\r\n"


@dataclass(slots=True)
class Extent:
    """Where a text in brackets ends, strings in it left alone.

    Attributes:
        stray: a character that cannot be outside of strings: there the text ends, complete or not.
        quotes: what strings are written in.
    """

    stray: str = ""
    quotes: str = '"'
    depth: int = 0
    _quote: str = ""
    _escaped: bool = False

    def feed(self, text: str) -> int | None:
        """The place in `text`, which goes on where the last one ended, behind the closing bracket, or of a
        stray character; None: the end is still to come."""
        for at, character in enumerate(text):
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == self._quote:
                    self._quote = ""
            elif character in self.quotes:
                self._quote = character
            elif character in "{[(":
                self.depth += 1
            elif character in "}])":
                self.depth -= 1
                if self.depth <= 0:
                    return at + 1
            elif self.stray and character == self.stray:
                return at
        return None


@dataclass(slots=True)
class Arguments:
    """The arguments of a call, passed on as they come."""

    stray: str = ""
    extent: Extent = field(init=False)

    def __post_init__(self) -> None:
        self.extent = Extent(self.stray)

    def push(self, text: str, pieces: list[Piece]) -> str | None:
        """Move what belongs to them to `pieces`; the text behind them, None while they go on."""
        end = self.extent.feed(text)
        if text[:end]:
            pieces.append(CallArguments(text[:end]))
        return None if end is None else text[end:]


class _State(Enum):
    HEAD = auto()
    ARGUMENTS = auto()
    TAIL = auto()
    REST = auto()


@dataclass(slots=True)
class JsonCall:
    """One call.

    Attributes:
        stray: see `Extent`.
        needs_arguments: whether an object without arguments is no call.
        held: what was not passed on, because it need not be a call.
    """

    stray: str = ""
    needs_arguments: bool = False
    held: str = field(default="", init=False)
    _state: _State = field(default=_State.HEAD, init=False)
    _arguments: Arguments = field(init=False)
    _outer: Extent = field(init=False)

    def __post_init__(self) -> None:
        self._arguments = Arguments(self.stray)
        self._outer = Extent(self.stray)

    @property
    def is_call(self) -> bool:
        """Whether it is known to be a call: pieces of it were passed on."""
        return self._state is not _State.HEAD

    def push(self, text: str, pieces: list[Piece]) -> str | None:
        """Take text from the object's beginning on. None while the object goes on; when it has ended, what
        is behind it. With `is_call` false it ended as something else, and is in `held`, whole."""
        if self._state is _State.HEAD:
            rest = self._read_head(text, pieces)
            if rest is None or not self.is_call:
                return rest
            text = rest
        if self._state is _State.ARGUMENTS:
            rest = self._arguments.push(text, pieces)
            if rest is None:
                return None
            self._state, text = _State.TAIL, rest
        return self._read_tail(text)

    def _read_head(self, text: str, pieces: list[Piece]) -> str | None:
        self.held += text
        if head := _HEAD.match(self.held):
            pieces.append(CallBegin(_decoded(head[1])))
            self._state = _State.ARGUMENTS
            rest, self.held = self.held[head.end() :], ""
            return rest
        end = self._outer.feed(text)
        if end is None:
            return None
        cut = len(self.held) - len(text) + end
        body, rest = self.held[:cut], self.held[cut:]
        if call := parse_call(body, self.needs_arguments):
            pieces += call
            self._state, self.held, self._outer.depth = _State.REST, "", 0
        else:
            self.held = body
        return rest

    def _read_tail(self, text: str) -> str | None:
        """What follows the arguments within the object: its end, or further fields, which say nothing."""
        if self._state is _State.TAIL:
            self.held += text
            found = self.held.lstrip(_SPACE)
            if not found:
                return None
            text, self.held = self.held, ""
            self._state = _State.REST
            if found[0] not in "},":
                return text
            self._outer = Extent(self.stray, depth=1)
        if self._outer.depth == 0:
            return text
        end = self._outer.feed(text)
        return None if end is None else text[end:]


def parse_call(body: str, needs_arguments: bool = False) -> list[Piece] | None:
    """The call that a whole object is, None if it is none."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict):
        return None
    if isinstance(call.get("function"), dict):
        call = call["function"]
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters"))
    if arguments is None and not needs_arguments:
        arguments = {}
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return [CallBegin(name), CallArguments(json.dumps(arguments, ensure_ascii=False))]


def _decoded(name: str) -> str:
    try:
        decoded = json.loads(name, strict=False)
    except ValueError:
        return name[1:-1]
    return str(decoded)
