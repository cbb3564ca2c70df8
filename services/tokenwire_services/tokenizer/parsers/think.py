"""Reasoning between `<think>` and `</think>`, before the answer.

Whether the output begins within it is the prompt's to say: some chat templates write the opening tag. What
comes after the closing tag goes to the parser of tool calls, if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from tokenwire_services.tokenizer.parsers.base import OutputParser, Piece, Reasoning, split_at_mark

OPEN, CLOSE = "<think>", "</think>"


class _State(Enum):
    START = auto()
    REASONING = auto()
    GAP = auto()
    ANSWER = auto()


@dataclass(slots=True)
class ThinkParser:
    """Parses one sample's output. White space beside the tags belongs to them.

    Attributes:
        answer: what parses the answer; None: it is text.
        is_open: whether the output begins with reasoning.
    """

    answer: OutputParser | None = None
    is_open: bool = False
    _state: _State = field(default=_State.START, init=False)
    _held: str = field(default="", init=False)
    _has_reasoned: bool = field(default=False, init=False)

    def push(self, text: str) -> list[Piece]:
        """Take the next piece of output; return what is known to be what, in order."""
        self._held += text
        pieces: list[Piece] = []
        while self._held and self._advance(pieces):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """The output ended, perhaps within the reasoning."""
        held, self._held = self._held, ""
        pieces: list[Piece] = []
        match self._state:
            case _State.REASONING:
                if held.strip():
                    pieces.append(Reasoning(held))
            case _State.START if held:
                pieces += self._answer(held)
        return pieces + (self.answer.flush() if self.answer is not None else [])

    def _advance(self, pieces: list[Piece]) -> bool:
        match self._state:
            case _State.START:
                return self._read_start()
            case _State.REASONING:
                return self._read_reasoning(pieces)
            case _State.GAP:
                self._held = self._held.lstrip()
                if self._held:
                    self._state = _State.ANSWER
                return bool(self._held)
            case _State.ANSWER:
                pieces += self._answer(self._held)
                self._held = ""
                return False

    def _read_start(self) -> bool:
        start = self._held.lstrip()
        if OPEN.startswith(start) and start != OPEN:
            return False
        if start.startswith(OPEN):
            self._held, self._state = start.removeprefix(OPEN), _State.REASONING
        else:
            self._state = _State.REASONING if self.is_open else _State.ANSWER
        return True

    def _read_reasoning(self, pieces: list[Piece]) -> bool:
        text, mark, self._held = split_at_mark(self._held, (CLOSE,))
        if not self._has_reasoned:
            text = text.lstrip()
        if text:
            pieces.append(Reasoning(text))
            self._has_reasoned = True
        if mark:
            self._state = _State.GAP
        return bool(mark)

    def _answer(self, text: str) -> list[Piece]:
        return [text] if self.answer is None else self.answer.push(text)
