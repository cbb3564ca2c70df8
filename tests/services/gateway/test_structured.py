"""What an answer must look like, from JSON to the tokenizer's request."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer
from tokenwire.status import invalid_argument

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION: list[Any] = [{"role": "user", "content": "Where?"}]
AN_OBJECT = {"type": "json_object"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", True),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "Place", "schema": SCHEMA}}},
            "json_schema",
            SCHEMA,
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "A"}}}, "json_object", True),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json_schema", SCHEMA),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "grammar", 'start: "a"'),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ["a", "b"]),
        ({"structured_outputs": {"json_object": True}}, "json_object", True),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "text"}}, "regex", "a"),
        ({"response_format": {"type": "text"}}, None, None),
    ],
)
async def test_the_shape_of_the_answer_reaches_the_tokenizer(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, fields: dict[str, Any], kind: str | None, value: Any
) -> None:
    await client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body=fields)
    await client.completions.create(model=MODEL, prompt="a", extra_body=fields)
    for request in tokenizer.requests[-2:]:
        constraint = request.constraint
        assert constraint.WhichOneof("kind") == kind
        match kind:
            case "json_schema":
                assert json.loads(constraint.json_schema) == value
            case "choice":
                assert list(constraint.choice.options) == value
            case str():
                assert getattr(constraint, kind) == value


async def test_the_sdk_parses_answers_into_models(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    class Place(BaseModel):
        city: str

    tokenizer.answer = lambda request: Answer(['{"city": ', '"Lyon"}'])
    answer = await client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Lyon")
    assert json.loads(tokenizer.requests[-1].constraint.json_schema)["required"] == ["city"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "json_schema": {"name": "a"}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"whitespace": "a"}}, "structured_outputs.whitespace"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
    ],
)
async def test_a_shape_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await http.post("/v1/chat/completions", json={"model": MODEL, "messages": QUESTION, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("sent", "field", "param"),
    [
        ({"response_format": AN_OBJECT}, "constraint.json_schema", "response_format.json_schema"),
        ({"response_format": AN_OBJECT}, "constraint", "response_format"),
        ({"structured_outputs": {"json": SCHEMA}}, "constraint.json_schema", "structured_outputs.json"),
        ({"structured_outputs": {"regex": "("}}, "constraint.regex", "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "constraint", "structured_outputs"),
    ],
)
async def test_what_the_engine_cannot_compile_is_named_as_it_was_sent(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer, sent: dict[str, Any], field: str, param: str
) -> None:
    tokenizer.answer = lambda request: Answer(error=invalid_argument(field, "cannot be used"))
    response = await http.post("/v1/chat/completions", json={"model": MODEL, "messages": QUESTION, **sent})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert response.json()["error"]["message"] == f"{param}: cannot be used"
