"""The training text: a function of its seed, and free of every held-out question."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import pytest

from models.demo.corpus import Conversation, conversations
from models.demo.facts import FACT_KINDS
from models.demo.heldout import HELD_OUT_CITIES, HELD_OUT_PHRASINGS, is_held_out_sum
from models.demo.questions import question_sets
from models.demo.tokenizer import render


@pytest.fixture(scope="module")
def corpus() -> list[Conversation]:
    return list(islice(conversations(seed=2), 20_000))


def test_the_same_seed_gives_the_same_text() -> None:
    first, again = (list(islice(conversations(seed=5), 200)) for _ in range(2))
    other = list(islice(conversations(seed=6), 200))
    assert first == again
    assert first != other


def test_no_question_about_a_fact_has_a_held_out_phrasing(corpus: list[Conversation]) -> None:
    templates = [phrasing for phrasings in HELD_OUT_PHRASINGS.values() for phrasing in phrasings]
    held_out = re.compile(
        "|".join(re.escape(t).replace(re.escape("{x}"), ".+") for t in templates), re.IGNORECASE
    )
    leaks = [text for text in _user_texts(corpus) if held_out.search(text)]
    assert leaks == []


def test_no_held_out_sum_is_ever_written(corpus: list[Conversation]) -> None:
    for conversation in corpus:
        for a, b in re.findall(r"(\d+) \+ (\d+)", render(conversation)):
            assert not is_held_out_sum(int(a), int(b))


def test_no_subtraction_undoes_a_held_out_sum(corpus: list[Conversation]) -> None:
    for conversation in corpus:
        for a, b in re.findall(r"(\d+) - (\d+) =", render(conversation)):
            assert not is_held_out_sum(int(a) - int(b), int(b))


def test_a_held_out_sum_is_held_out_in_both_orders() -> None:
    assert all(is_held_out_sum(a, b) == is_held_out_sum(b, a) for a in range(100) for b in range(100))


def test_about_a_tenth_of_all_sums_is_held_out() -> None:
    assert 900 <= sum(is_held_out_sum(a, b) for a in range(100) for b in range(100)) <= 1100


def test_no_held_out_city_occurs_anywhere(corpus: list[Conversation]) -> None:
    cities = re.compile(r"\b(" + "|".join(map(re.escape, HELD_OUT_CITIES)) + r")\b")
    assert [match for c in corpus if (match := cities.search(render(c)))] == []


def test_every_kind_of_fact_has_held_out_phrasings_that_name_the_thing() -> None:
    assert {kind.name for kind in FACT_KINDS} == set(HELD_OUT_PHRASINGS)
    assert all("{x}" in phrasing for phrasings in HELD_OUT_PHRASINGS.values() for phrasing in phrasings)


def test_the_questions_of_the_evaluation_are_held_out_and_repeatable() -> None:
    sets = question_sets(limit=50)
    assert sets == question_sets(limit=50)
    assert [len(questions) for questions in sets.values()] == [50, 50, 50]


def test_a_tool_answer_counts_only_when_name_and_arguments_are_right() -> None:
    question = question_sets(limit=1)["tool calls, held-out cities"][0]
    assert not isinstance(question.expected, str)
    name, arguments = question.expected
    (city,) = arguments.values()
    key = next(iter(arguments))
    assert question.accepts("", [(name, f'{{"{key}": "{city}"}}')])
    assert not question.accepts("", [(name, f'{{"{key}": "Paris"}}')])
    assert not question.accepts("", [(name, '{"broken')])
    assert not question.accepts(f"The weather in {city} is sunny.", [])


def _user_texts(corpus: list[Conversation]) -> list[str]:
    messages: list[dict[str, Any]] = [message for conversation in corpus for message in conversation.messages]
    return [message["content"] for message in messages if message["role"] == "user"]
