"""The training text of the demo model, generated from a seed.

`conversations(seed)` is an endless stream of chats (and a little plain text) in fixed proportions. The same
seed gives the same stream on every machine, and no held-out question of `heldout.py` is ever in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from models.demo import tasks
from models.demo.names import NAMES, WORDS
from models.demo.stories import story
from models.demo.tools import Message, Tool, some_tools, tool_conversation

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Be brief.",
    "Answer in one sentence.",
    "You are the Tokenwire demo.",
    "You are an assistant that answers questions.",
    "Answer the questions of the user.",
    "Be polite and short.",
    "You are a teacher.",
    "Today is Monday.",
    "You are a helpful assistant. Answer briefly.",
    "You answer correctly.",
    "You are a concise assistant.",
    "Help the user.",
    "You are a bot.",
    "The user is a child. Use simple words.",
)

_TASKS = (
    (tasks.fact, 42),
    (tasks.addition, 28),
    (tasks.subtraction, 5),
    (tasks.multiplication, 3),
    (tasks.rewriting, 6),
    (tasks.copying, 11),
    (tasks.json_object, 4),
    (tasks.listing, 4),
    (story, 2),
    (tasks.small_talk, 4),
)
_TASK_FUNCTIONS = [task for task, _ in _TASKS]
_TASK_WEIGHTS = [weight for _, weight in _TASKS]


@dataclass(slots=True)
class Conversation:
    """One training text: chat messages with the tools on offer, or plain text when there are no messages."""

    messages: list[Message] = field(default_factory=list)
    tools: list[Tool] | None = None
    text: str = ""


def conversations(seed: int) -> Iterator[Conversation]:
    """The endless stream of training conversations for `seed`."""
    rng = Random(seed)
    while True:
        yield _conversation(rng)


def _conversation(rng: Random) -> Conversation:
    kind = rng.random()
    if kind < 0.04:
        return Conversation(text=tasks.plain_text(rng))
    if kind < 0.21:
        tools, messages = tool_conversation(rng)
        return Conversation(_system(rng) + _turns(rng, rng.choice((0, 0, 0, 1))) + messages, tools)
    if kind < 0.24:
        return Conversation(_system(rng) + _turns(rng, 1), some_tools(rng))
    turns = rng.choices((1, 2, 3, 4, 8, 16), (60, 20, 12, 6, 1.5, 0.5))[0]
    return Conversation(_system(rng) + _turns(rng, turns))


def _system(rng: Random) -> list[Message]:
    if rng.random() < 0.7:
        return []
    prompt = rng.choice(SYSTEM_PROMPTS)
    match rng.randrange(10):
        case 0:  # any words may stand in a system prompt
            prompt = f"{prompt} {' '.join(rng.choices(WORDS, k=rng.randint(1, 20)))}."
        case 1:
            prompt = f"Your name is {rng.choice(NAMES)}. {prompt}"
        case 2:
            prompt = f"{prompt} {tasks.plain_text(rng)}"
    return [{"role": "system", "content": prompt}]


def _turns(rng: Random, count: int) -> list[Message]:
    messages: list[dict[str, Any]] = []
    for task in rng.choices(_TASK_FUNCTIONS, _TASK_WEIGHTS, k=count):
        question, answer = task(rng)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages
