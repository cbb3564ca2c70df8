"""Structured output and tools over HTTP, with OpenAI's client and the demo model."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel

from tests.e2e.questions import MODEL

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Lyon?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
    {
        "type": "function",
        "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
    },
]


class Reply(BaseModel):
    """What the model is asked to answer."""

    city: str
    degrees: int


def test_an_answer_is_parsed_into_a_model(sync_openai: openai.OpenAI) -> None:
    answer = sync_openai.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=Reply, temperature=0, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Reply)
    assert answer.choices[0].finish_reason == "stop"


def test_vllms_constraints_are_kept_to(sync_openai: openai.OpenAI) -> None:
    for asked, pattern in (
        ({"regex": r"\d{2}:\d{2}"}, r"\d{2}:\d{2}"),
        ({"choice": ["sunny", "rainy"]}, "sunny|rainy"),
        ({"grammar": 'start: "It is " ("hot" | "cold") "."'}, r"It is (hot|cold)\."),
    ):
        answer = sync_openai.completions.create(
            model=MODEL, prompt="Now:", temperature=1, extra_body={"structured_outputs": asked}
        )
        assert re.fullmatch(pattern, answer.choices[0].text)


def test_each_sample_is_kept_to_the_constraint_by_itself(sync_openai: openai.OpenAI) -> None:
    answer = sync_openai.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=1,
        n=4,
        extra_body={"structured_outputs": {"regex": "[0-9]{8}"}},
    )
    texts = [choice.message.content or "" for choice in answer.choices]
    assert all(re.fullmatch("[0-9]{8}", text) for text in texts)
    assert len(set(texts)) > 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
    ids=["required", "named"],
)
def test_a_call_can_be_forced(sync_openai: openai.OpenAI, stream: bool, choice: Any, names: set[str]) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 1,
        "seed": 5,
    }
    if stream:
        with sync_openai.chat.completions.stream(**asked) as events:
            answer: Any = events.get_final_completion()
    else:
        answer = sync_openai.chat.completions.create(**asked)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name in names
    if call.function.name == "get_weather":
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_a_call_of_a_strict_tool_follows_its_schema(sync_openai: openai.OpenAI) -> None:
    strict: list[Any] = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    answer = sync_openai.chat.completions.create(model=MODEL, messages=QUESTION, tools=strict, temperature=0)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "text"}},
                }
            },
            "response_format.json_schema",
        ),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"tools": [tool("f", {"type": "text"})]}, "tools[0].function.parameters"),
        *(
            (
                {
                    "tools": [*TOOLS, tool("f", {"properties": {"a": {"type": "text"}}})],
                    "tool_choice": choice,
                },
                "tools[2].function.parameters",
            )
            for choice in ("auto", "required", {"type": "function", "function": {"name": "f"}})
        ),
        (
            {
                "tools": [tool("f", {"properties": {"a": {"not": {}}}})],
                "response_format": {"type": "json_object"},
            },
            "tools[0].function.parameters",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused_by_its_name(
    sync_openai: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sync_openai.chat.completions.create(model=MODEL, messages=QUESTION, extra_body=fields)
    assert caught.value.param == param
    assert caught.value.body["message"].startswith(f"{param}: ")
    assert "%json" not in caught.value.body["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"regex": "[a-z]+"}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "tools": TOOLS}, "response_format"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tools"),
    ],
)
def test_what_excludes_all_tokens_is_named(
    sync_openai: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    excluding = {**fields, "allowed_token_ids": [0]}
    with pytest.raises(openai.BadRequestError, match="left no token to choose") as caught:
        sync_openai.chat.completions.create(
            model=MODEL, messages=QUESTION, logprobs=True, extra_body=excluding
        )
    assert caught.value.param == param
