"""Arguments as Python writes them, `city="Paris", days=3`, as the rules of a grammar.

Declared parameters come in their order, those that are required always, each value as its schema has it.
"""

from __future__ import annotations

import keyword
from typing import Any

from tokenwire.status import invalid_argument
from tokenwire_services.tokenizer.parsers.call_grammar import Tool, json_rule

_DEFINITIONS = ("$defs", "definitions")
_ANY_NAME = "/[a-z_][a-z0-9_]*/"


def python_arguments(rule: str, tool: Tool) -> list[str]:
    """The rules, of which `rule` is the first, of a tool's arguments.

    Raises:
        StatusError: INVALID_ARGUMENT where the tool, or what it requires, has no name in Python.
    """
    if not all(map(_is_name, tool.name.split("."))):
        raise invalid_argument("chat.tools", f"this model cannot call {tool.name!r}: no name in Python")
    schema = tool.schema
    properties: dict[str, Any] = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    for name in required:
        if not _is_name(name):
            raise invalid_argument("chat.tools", f"this model cannot write {name!r}: no name in Python")
    if not properties and not required and schema.get("additionalProperties", True):
        return [
            f'{rule}: ({rule}_any (", " {rule}_any)*)?',
            f'{rule}_any: {_ANY_NAME} "=" {rule}_value',
            f"{rule}_value: {json_rule({}, lenient=True)}",
        ]
    shared = {key: schema[key] for key in _DEFINITIONS if key in schema}
    parameters = [name for name in (*properties, *(required - properties.keys())) if _is_name(name)]
    rules = [f"{rule}: {rule}_first_0"]
    for index, name in enumerate(parameters):
        this, after = f"{rule}_{index}", f"{rule}_after_{index + 1}"
        if name in required:
            rules.append(f"{rule}_first_{index}: {this} {after}")
            rules.append(f'{rule}_after_{index}: ", " {this} {after}')
        else:
            rules.append(f"{rule}_first_{index}: {this} {after} | {rule}_first_{index + 1}")
            rules.append(f'{rule}_after_{index}: (", " {this})? {after}')
        rules.append(f'{this}: "{name}=" {this}_value')
        rules.append(f"{this}_value: {_value(properties.get(name, {}), shared, not tool.strict)}")
    rules.append(f'{rule}_first_{len(parameters)}: ""')
    rules.append(f'{rule}_after_{len(parameters)}: ""')
    return rules


def _value(schema: Any, shared: dict[str, Any], lenient: bool) -> str:
    """A value; JSON but for the constants that stand alone, which Python spells its own way."""
    if isinstance(schema, dict):
        match schema.get("type"):
            case "boolean" if "enum" not in schema and "const" not in schema:
                return '"True" | "False"'
            case "null":
                return '"None"'
        schema = {**shared, **schema}
    return json_rule(schema, lenient)


def _is_name(text: str) -> bool:
    return text.isidentifier() and text.isascii() and not keyword.iskeyword(text)
