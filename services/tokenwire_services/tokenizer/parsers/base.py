"""What every output parser is: text in pieces in; text, reasoning and tool calls out, nothing lost.

The result does not depend on how the text was cut into pieces. A parser holds back what may still become
markup, and no more; what turns out not to be the model's syntax comes out as the text that it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, frozen=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(slots=True, frozen=True)
class CallBegin:
    """A tool call begins. Its arguments follow, until the next piece that is none of them."""

    name: str


@dataclass(slots=True, frozen=True)
class CallArguments:
    """More of the arguments of the latest call: a JSON object, as text."""

    text: str


Piece = str | Reasoning | CallBegin | CallArguments


class OutputParser(Protocol):
    """One sample's parser."""

    def push(self, text: str) -> list[Piece]:
        """Take the next piece of output; return what is known to be what, in order."""

    def flush(self) -> list[Piece]:
        """The output ended; return all that was held back."""


def split_at_mark(text: str, marks: tuple[str, ...]) -> tuple[str, str, str]:
    """The text before the first of the marks, the mark, and what is behind it.

    White space before a mark belongs to it. Where there is none yet, it is "", and the last part is what may
    still become one.
    """
    places = [(text.find(mark), mark) for mark in marks if mark in text]
    at, mark = min(places, default=(len(text) - overlap_any(text, marks), ""))
    before, end = text[:at].rstrip(), at + len(mark)
    if not mark:
        return before, "", text[len(before) :]
    return before, text[len(before) : end], text[end:]


def overlap_any(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of `text` with which one of the marks begins, without being all of it."""
    longest = 0
    for mark in marks:
        for size in range(min(len(mark) - 1, len(text)), longest, -1):
            if text.endswith(mark[:size]):
                longest = size
                break
    return longest
