"""Tool calls as Llama 3 writes them: the whole answer is `{"name": ..., "parameters": {...}}`, or several
such objects with semicolons between them, perhaps after `<|python_tag|>`.

Only an answer that begins so calls anything; JSON that is no call is the answer itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenwire_services.tokenizer.parsers.base import Piece
from tokenwire_services.tokenizer.parsers.json_call import JsonCall

PYTHON_TAG = "<|python_tag|>"
_BETWEEN = " \t\r\n;,"


@dataclass(slots=True)
class LlamaJsonParser:
    """Parses one sample's output."""

    _held: str = field(default="", init=False)
    """What comes before a call, or between two."""
    _call: JsonCall | None = field(default=None, init=False)
    _num_calls: int = field(default=0, init=False)
    _is_text: bool = field(default=False, init=False)
    """Whether no more calls can come."""

    def push(self, text: str) -> list[Piece]:
        """Take the next piece of output; return what is known to be what, in order."""
        pieces: list[Piece] = []
        while text:
            text = self._advance(text, pieces)
        return pieces

    def flush(self) -> list[Piece]:
        """The output ended: what was held back is text, unless it stood between calls."""
        held = self._held
        if self._call is not None and not self._call.is_call:
            held += self._call.held
        elif self._num_calls and not held.strip(_BETWEEN):
            held = ""
        self._held, self._call = "", None
        return [held] if held else []

    def _advance(self, text: str, pieces: list[Piece]) -> str:
        """Take some of the text; what is left of it."""
        if self._is_text:
            pieces.append(text)
            return ""
        if self._call is not None:
            return self._read_call(self._call, text, pieces)
        self._held += text
        rest = self._held.lstrip(_BETWEEN if self._num_calls else _BETWEEN[:4])
        if rest.startswith(PYTHON_TAG):
            rest = rest.removeprefix(PYTHON_TAG).lstrip()
        if rest.startswith("{"):
            self._call = JsonCall(needs_arguments=True)
            self._held = self._held[: len(self._held) - len(rest)]
            return rest
        if rest and not PYTHON_TAG.startswith(rest):
            self._give_up(self._held, pieces)
        return ""

    def _read_call(self, call: JsonCall, text: str, pieces: list[Piece]) -> str:
        rest = call.push(text, pieces)
        if call.is_call:
            self._held = ""
        if rest is None:
            return ""
        self._call = None
        if call.is_call:
            self._num_calls += 1
        else:
            self._give_up(self._held + call.held, pieces)
        return rest

    def _give_up(self, text: str, pieces: list[Piece]) -> None:
        pieces.append(text)
        self._held, self._is_text = "", True
