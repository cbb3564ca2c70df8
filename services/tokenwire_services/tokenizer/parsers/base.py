"""What every output parser is: text in pieces in, text and tool calls out, nothing lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, frozen=True)
class ParsedCall:
    """A tool call that the model wrote."""

    name: str
    arguments_json: str
    """A JSON object, as text."""


class OutputParser(Protocol):
    """One request's parser."""

    def push(self, text: str) -> list[str | ParsedCall]:
        """Take the next piece of output; return what is complete, in order."""

    def flush(self) -> list[str | ParsedCall]:
        """The output ended; return all that was held back."""
