"""Tool calls as Python: the whole answer is `[get_weather(city="Paris"), get_time()]`.

The list is held back until it is complete, since only then its arguments can be read.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field

from tokenwire_services.tokenizer.parsers.base import CallArguments, CallBegin, Piece
from tokenwire_services.tokenizer.parsers.json_call import Extent

PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
_MARKS = (PYTHON_START, PYTHON_END)
_NAMES = {"true": True, "false": False, "null": None}
"""JSON's constants, which models write in Python, too."""


@dataclass(slots=True)
class PythonicParser:
    """Parses one sample's output."""

    _held: str = field(default="", init=False)
    _extent: Extent | None = field(default=None, init=False)
    """Of the list, once it has begun."""
    _is_text: bool = field(default=False, init=False)

    def push(self, text: str) -> list[Piece]:
        """Take the next piece of output; return what is known to be what, in order."""
        if self._is_text:
            return [text] if text else []
        if self._extent is None:
            self._held += text
            start = self._held.lstrip()
            text = start.removeprefix(PYTHON_START).lstrip()
            if not text or PYTHON_START.startswith(text):
                return []
            if not text.startswith("["):
                return self._give_up()
            self._held = self._held[: len(self._held) - len(text)]
            self._extent = Extent(quotes="\"'")
        self._held += text
        end = self._extent.feed(text)
        if end is None:
            return []
        cut = len(self._held) - len(text) + end
        rest = self._held[cut:]
        calls = parse_calls(self._held[:cut].strip().removeprefix(PYTHON_START))
        if calls is None:
            return self._give_up()
        self._held, self._is_text = "", True
        rest = rest.removeprefix(PYTHON_END)
        return calls + ([rest] if rest else [])

    def flush(self) -> list[Piece]:
        """The output ended: an incomplete list is text."""
        return self._give_up() if self._held else []

    def _give_up(self) -> list[Piece]:
        held, self._held, self._is_text = self._held, "", True
        return [held]


def parse_calls(text: str) -> list[Piece] | None:
    """The calls that a list in Python is, None if it is none. Nothing is evaluated but literals."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.List) or not tree.elts:
            return None
        return [piece for element in tree.elts for piece in _call(element)]
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _call(element: ast.expr) -> tuple[CallBegin, CallArguments]:
    if not isinstance(element, ast.Call) or element.args:
        raise ValueError("no call with named arguments")
    arguments = {}
    for argument in element.keywords:
        if argument.arg is None:
            raise ValueError("an argument without a name")
        arguments[argument.arg] = _literal(argument.value)
    name = ast.unparse(element.func)
    return CallBegin(name), CallArguments(json.dumps(arguments, ensure_ascii=False))


def _literal(value: ast.expr) -> object:
    match value:
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return {
                str(_literal(key)): _literal(each)
                for key, each in zip(keys, values, strict=True)
                if key is not None
            }
        case _:
            literal: object = ast.literal_eval(value)
            return literal
