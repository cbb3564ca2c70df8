"""Grammars (Lark, as llguidance has it) of outputs that call tools, in each model's own syntax.

They are what `tool_choice` and strict tools are enforced with: the engine keeps the output to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WHITESPACE = r" |\n[ ]{0,40}"
"""Between the parts of arguments: as the engine has it for JSON."""

Mark = Callable[[str], str]
"""A control token's text as a grammar writes it: by its ID where the vocabulary has it, else as a string."""


@dataclass(slots=True, frozen=True)
class Tool:
    """A function that may be called."""

    name: str
    schema: dict[str, Any]
    """Of its arguments."""
    strict: bool


def json_arguments(rule: str, tool: Tool) -> list[str]:
    """The rules, of which `rule` is the first, of a tool's arguments as a JSON object."""
    return [f"{rule}: {json_rule(tool.schema, lenient=not tool.strict)}"]


@dataclass(slots=True, frozen=True)
class CallSyntax:
    """How calls are written, in parts; `NAME` and `ARGUMENTS` stand for those of each tool."""

    call: tuple[str, ...]
    before: tuple[str, ...] = ()
    """Before the first call."""
    between: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    quotes_names: bool = True
    """Whether a name is a JSON string."""
    text: str = r"/(.|\n)*/ calls?"
    """What an answer is that may call: text, perhaps with calls behind it. Empty: not to be told apart."""
    arguments: Callable[[str, Tool], list[str]] = json_arguments
    """Writes the rules of a tool's arguments; the name of the first is given."""


NAME, ARGUMENTS = "\0name", "\0arguments"


def write_calls(
    syntax: CallSyntax,
    tools: Sequence[Tool],
    marks: Sequence[str],
    mark: Mark,
    at_most_one: bool,
) -> list[str]:
    """The rules of a grammar in which `calls` is what calls tools.

    Args:
        marks: which of the syntax's parts may be control tokens.

    Raises:
        StatusError: INVALID_ARGUMENT for a tool that the syntax has no words for.
    """

    def quoted(name: str) -> str:
        return json.dumps(name, ensure_ascii=False) if syntax.quotes_names else name

    def parts(texts: Sequence[str], index: int = 0) -> str:
        written = []
        for text in texts:
            if text == ARGUMENTS:
                written.append(f"arguments_{index}")
            elif text == NAME:
                written.append(json.dumps(quoted(tools[index].name)))
            else:
                written.append(mark(text) if text in marks else json.dumps(text))
        return " ".join(written)

    more = "" if at_most_one else f"({parts(syntax.between)} call)*"
    rules = [
        f"calls: {parts(syntax.before)} call {more} {parts(syntax.after)}",
        "call: " + " | ".join(f"call_{index}" for index in range(len(tools))),
    ]
    for index, tool in enumerate(tools):
        rules.append(f"call_{index}: {parts(syntax.call, index)}")
        rules += syntax.arguments(f"arguments_{index}", tool)
    return rules


def json_rule(schema: Any, lenient: bool = False) -> str:
    """What is JSON of a schema; `lenient`: what cannot be enforced of it is passed over."""
    if not isinstance(schema, dict):
        return f"%json {json.dumps(schema)}"
    options: dict[str, Any] = {"whitespace_pattern": WHITESPACE}
    if lenient:
        options |= {"lenient": True, "coerce_one_of": True}
    return f"%json {json.dumps({**schema, 'x-guidance': options})}"
