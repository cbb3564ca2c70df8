"""The held-out questions with their expected answers, and how an answer is judged.

Shared by `train.py`, which asks the model directly, and `evaluate.py`, which asks the running services.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from models.demo import tasks
from models.demo.facts import FACT_KINDS, capitalised
from models.demo.heldout import HELD_OUT_CITIES, HELD_OUT_PHRASINGS, held_out_sums
from models.demo.tools import Message, Tool

_SUM_FORMS = ("What is {a} + {b}?", "What is {a} plus {b}?", "{a}+{b}", "Add {a} and {b}.", "{a} + {b} =")
_WEATHER_FORMS = (
    "What is the weather in {c}?",
    "What's the weather like in {c}?",
    "How is the weather in {c} today?",
)
WEATHER_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city name"}},
            "required": ["city"],
        },
    },
}
LOCATION_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Question:
    """A chat, the tools on offer, and the answer: a text, or the name and arguments of the one tool call."""

    messages: list[Message]
    tools: list[Tool]
    expected: str | tuple[str, dict[str, Any]]

    def accepts(self, text: str, calls: list[tuple[str, str]]) -> bool:
        """Whether `text` and tool `calls`, given as names and JSON arguments, are exactly the answer."""
        if isinstance(self.expected, str):
            return not calls and text.strip() == self.expected
        try:
            return [(name, json.loads(arguments)) for name, arguments in calls] == [self.expected]
        except json.JSONDecodeError:
            return False


def question_sets(limit: int, seed: int = 0) -> dict[str, list[Question]]:
    """Up to `limit` questions of each set, drawn with `seed`, by the name of the set."""
    rng = Random(seed)
    sets = {
        "facts, held-out phrasings": _facts(),
        "additions, held-out pairs": _sums(),
        "tool calls, held-out cities": _tool_calls(),
    }
    return {name: rng.sample(questions, min(limit, len(questions))) for name, questions in sets.items()}


def trained_sets(limit: int, seed: int = 0) -> dict[str, list[Question]]:
    """`limit` questions of each further task. They are drawn like the training text, and may occur in it."""
    further = (
        tasks.subtraction,
        tasks.multiplication,
        tasks.rewriting,
        tasks.copying,
        tasks.json_object,
        tasks.listing,
        tasks.small_talk,
    )
    rng = Random(seed)
    return {task.__name__.replace("_", " "): [_plain(*task(rng)) for _ in range(limit)] for task in further}


def _facts() -> list[Question]:
    return [
        _plain(capitalised(phrasing.format(x=x)), kind.reply(x))
        for kind in FACT_KINDS
        for x in kind.facts
        for phrasing in HELD_OUT_PHRASINGS[kind.name]
    ]


def _sums() -> list[Question]:
    return [
        _plain(_SUM_FORMS[i % len(_SUM_FORMS)].format(a=a, b=b), f"{a} + {b} = {a + b}.")
        for i, (a, b) in enumerate(held_out_sums())
    ]


def _tool_calls() -> list[Question]:
    return [
        Question(_user(form.format(c=city)), [tool], (tool["function"]["name"], {key: city}))
        for city in HELD_OUT_CITIES
        for form in _WEATHER_FORMS
        for tool, key in ((WEATHER_TOOL, "city"), (LOCATION_TOOL, "location"))
    ]


def _plain(text: str, answer: str) -> Question:
    return Question(_user(text), [], answer)


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
