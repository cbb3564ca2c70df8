"""Random JSON Schemas as applications write them: types, enums, references, arrays, bounds, patterns, unions.

Lengths are bounded, mostly: what a small model says at temperature 1 has no end of its own.
"""

from __future__ import annotations

import random
import string
from typing import Any

Schema = dict[str, Any]

WORDS = ("red", "green", "blue", "open", "done", "Zürich", "naïve", "日本", 'a "quote"', "a/b", "x\ny", "🙂")
PATTERNS = (
    "^[a-z]{2,6}$",
    "^[A-Z]{3}-[0-9]{2,4}$",
    r"^\d{4}-\d{2}-\d{2}$",
    "^(yes|no|maybe)$",
    "^[^ ]{1,8}$",
    "[0-9]{2}$",
    "^#[0-9a-f]{6}$",
)
FORMATS = ("date", "time", "date-time", "uuid", "ipv4")


def random_schema(seed: int) -> Schema:
    """The schema of that number: an object, with definitions where it refers to some."""
    chance = random.Random(seed)
    names = [f"Kind{index}" for index in range(chance.randint(0, 3))]
    schema = _object(chance, 0, names)
    if names:
        schema["$defs"] = {name: _value(chance, 2, names[index + 1 :]) for index, name in enumerate(names)}
        if chance.random() < 0.2:  # a list: it refers to itself, optionally
            schema["$defs"][names[-1]] = {
                "type": "object",
                "properties": {
                    "value": _value(chance, 3, []),
                    "next": {"anyOf": [{"$ref": f"#/$defs/{names[-1]}"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
    return schema


def _value(chance: random.Random, depth: int, names: list[str]) -> Schema:
    simple = [_string, _pattern, _enum, _integer, _number, _boolean, _nullable, _constant]
    nested = [_object, _array, _any_of, _array, _object]
    if names and chance.random() < 0.3:
        return {"$ref": f"#/$defs/{chance.choice(names)}"}
    return chance.choice(simple + (nested if depth < 3 else []))(chance, depth + 1, names)


def _object(chance: random.Random, depth: int, names: list[str]) -> Schema:
    keys = chance.sample(
        ["name", "age", "city", "tags", "a b", "größe", "é", "x-1", "id", "unit"], chance.randint(1, 4)
    )
    schema: Schema = {"type": "object", "properties": {key: _value(chance, depth, names) for key in keys}}
    schema["required"] = [key for key in keys if chance.random() < 0.8]
    schema["additionalProperties"] = False
    if chance.random() < 0.1:
        schema["additionalProperties"] = {"type": "integer", "maximum": 9}
    return schema


def _array(chance: random.Random, depth: int, names: list[str]) -> Schema:
    least = chance.randint(0, 2)
    schema: Schema = {"type": "array", "minItems": least, "maxItems": least + chance.randint(0, 3)}
    if chance.random() < 0.2:
        schema["prefixItems"] = [_value(chance, depth, names) for _ in range(2)]
        schema["minItems"], schema["maxItems"] = 2, chance.randint(2, 4)
    schema["items"] = _value(chance, depth, names)
    return schema


def _any_of(chance: random.Random, depth: int, names: list[str]) -> Schema:
    return {"anyOf": [_value(chance, depth, names) for _ in range(chance.randint(2, 3))]}


def _string(chance: random.Random, depth: int, names: list[str]) -> Schema:
    least = chance.randint(0, 3)
    if chance.random() < 0.2:
        return {"type": "string", "format": chance.choice(FORMATS)}
    return {"type": "string", "minLength": least, "maxLength": least + chance.randint(0, 12)}


def _pattern(chance: random.Random, depth: int, names: list[str]) -> Schema:
    pattern = chance.choice(PATTERNS)
    return {"type": "string", "pattern": pattern} | ({} if pattern.startswith("^") else {"maxLength": 9})


def _enum(chance: random.Random, depth: int, names: list[str]) -> Schema:
    values = [*chance.sample(WORDS, 3), chance.randint(-9, 99), None, True, 2.5, [1, "x"], {"k": 0}]
    return {"enum": chance.sample(values, chance.randint(1, 4))}


def _constant(chance: random.Random, depth: int, names: list[str]) -> Schema:
    return {"const": chance.choice([*WORDS, 7, None, False, {"a": [1, 2]}])}


def _integer(chance: random.Random, depth: int, names: list[str]) -> Schema:
    schema: Schema = {"type": "integer"}
    least = chance.randint(-1000, 1000)
    schema[chance.choice(["minimum", "exclusiveMinimum"])] = least
    schema[chance.choice(["maximum", "exclusiveMaximum"])] = least + chance.randint(2, 5000)
    if chance.random() < 0.2:
        schema["multipleOf"] = chance.choice([2, 5, 10])
        schema["maximum"] = least + 5000
    return schema


def _number(chance: random.Random, depth: int, names: list[str]) -> Schema:
    least = chance.choice([-1.5, 0, 0.25, 100])
    return {"type": "number", "minimum": least, "maximum": least + chance.choice([0.5, 1, 273.15])}


def _boolean(chance: random.Random, depth: int, names: list[str]) -> Schema:
    return {"type": "boolean"}


def _nullable(chance: random.Random, depth: int, names: list[str]) -> Schema:
    letters = "".join(chance.sample(string.ascii_lowercase, 5))
    return {"type": ["string", "null"], "maxLength": 6, "description": f"A word like {letters}."}
