"""Running a parser over a text, however it is cut, and looking at what came out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenwire_services.tokenizer.parsers.base import (
    CallArguments,
    CallBegin,
    OutputParser,
    Piece,
    Reasoning,
)

MakeParser = Callable[[], OutputParser]


@dataclass
class Read:
    """What an output was read as."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Names and arguments."""


def pieces_of(make: MakeParser, text: str, cuts: Callable[[int], int] = lambda at: 1) -> list[Piece]:
    """The parser's pieces when it gets `cuts(place)` characters at a time."""
    parser, pieces, at = make(), [], 0
    while at < len(text):
        size = max(1, cuts(at))
        pieces += parser.push(text[at : at + size])
        at += size
    return pieces + parser.flush()


def read(make: MakeParser, text: str, cuts: Callable[[int], int] = lambda at: 1) -> Read:
    """What comes of a text."""
    result = Read()
    for piece in pieces_of(make, text, cuts):
        match piece:
            case str():
                result.text += piece
            case Reasoning(more):
                result.reasoning += more
            case CallBegin(name):
                result.calls.append((name, ""))
            case CallArguments(more):
                name, arguments = result.calls[-1]
                result.calls[-1] = name, arguments + more
    return result


def randomly(seed: int) -> Callable[[int], int]:
    """Cuts of random lengths."""
    chance = random.Random(seed)
    return lambda at: chance.choice([1, 1, 2, 3, 5, 8, 30])
