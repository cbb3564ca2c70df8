"""Bad requests: refused with 400, naming the parameter, before the tokenizer service hears of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer
from tokenwire_services.gateway.schemas.chat import ChatCompletionRequest
from tokenwire_services.gateway.schemas.completions import CompletionRequest
from tokenwire_services.gateway.schemas.tokenize import DetokenizeRequest, TokenizeChatRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}


@pytest.mark.parametrize(
    ("field", "value", "param", "code"),
    [
        ("messages", [], "messages", "array_below_min_length"),
        ("messages", "hi", "messages", "invalid_type"),
        ("messages", [{"role": "pirate", "content": "arr"}], "messages[0].role", "invalid_value"),
        ("messages", [*HELLO, {"role": "user"}], "messages[1].content", "missing_required_parameter"),
        ("messages", [{"role": "user", "content": 3}], "messages[0].content", "invalid_type"),
        (
            "messages",
            [{"role": "tool", "content": "3"}],
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        (
            "messages",
            [{"role": "user", "content": [IMAGE]}],
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        ("model", 3, "model", "invalid_type"),
        ("model", "", "model", "string_below_min_length"),
        ("temperature", -0.5, "temperature", "decimal_below_min_value"),
        ("temperature", "hot", "temperature", "invalid_type"),
        ("temperature", True, "temperature", "invalid_type"),
        ("temperature", 1e300, "temperature", "decimal_above_max_value"),
        ("top_p", 0, "top_p", "decimal_below_min_value"),
        ("top_p", 1.01, "top_p", "decimal_above_max_value"),
        ("n", 0, "n", "integer_below_min_value"),
        ("n", 129, "n", "integer_above_max_value"),
        ("max_tokens", -1, "max_tokens", "integer_below_min_value"),
        ("max_tokens", 1.5, "max_tokens", "invalid_type"),
        ("max_completion_tokens", 0, "max_completion_tokens", "integer_below_min_value"),
        ("seed", 2**63, "seed", "integer_above_max_value"),
        ("stop", "", "stop", "string_below_min_length"),
        ("stop", "x" * 1025, "stop", "invalid_value"),
        ("stop", ["x"] * 17, "stop", "array_above_max_length"),
        ("stop", ["x", 1], "stop[1]", "invalid_type"),
        ("presence_penalty", 3, "presence_penalty", "decimal_above_max_value"),
        ("repetition_penalty", 0, "repetition_penalty", "decimal_below_min_value"),
        ("stop_token_ids", [-1], "stop_token_ids[0]", "integer_below_min_value"),
        ("stream", "yes", "stream", "invalid_type"),
        ("stream_options", {"include_usage": True}, "stream_options", "invalid_value"),
        ("logit_bias", {"five": 1}, "logit_bias", "invalid_value"),
        ("logit_bias", {str(2**32): 1}, "logit_bias", "invalid_value"),
        ("logit_bias", {"5": 101}, "logit_bias.5", "decimal_above_max_value"),
        ("logit_bias", {"5": "1"}, "logit_bias.5", "invalid_type"),
        ("guided_json", {"type": "object"}, "guided_json", "unsupported_parameter"),
        ("bad_words", ["fine", " "], "bad_words[1]", "invalid_value"),
        ("allowed_token_ids", [], "allowed_token_ids", "array_below_min_length"),
        ("logprobs", 5, "logprobs", "invalid_type"),
        ("top_logprobs", 21, "top_logprobs", "integer_above_max_value"),
        ("top_logprobs", 5, "top_logprobs", "invalid_value"),
        ("tool_choice", "sometimes", "tool_choice", "invalid_value"),
        ("tool_choice", {"type": "function"}, "tool_choice.function", "missing_required_parameter"),
        ("parallel_tool_calls", "no", "parallel_tool_calls", "invalid_type"),
        ("reasoning_effort", 3, "reasoning_effort", "invalid_type"),
        ("tool_choice", {"type": "allowed_tools"}, "tool_choice.allowed_tools", "missing_required_parameter"),
        ("functions", [{"name": "f"}], "functions", "unsupported_parameter"),
        ("function_call", "auto", "function_call", "unsupported_parameter"),
        ("use_beam_search", True, "use_beam_search", "unsupported_parameter"),
        ("thinking_token_budget", 100, "thinking_token_budget", "unsupported_parameter"),
        ("regex", "[a-z]+", "regex", "unsupported_parameter"),
        ("response_format", {"type": "text", "mood": "good"}, "response_format.mood", "unknown_parameter"),
        ("chat_template_kwargs", {"big": 1e308, "deep": None}, None, None),
    ],
)
async def test_a_bad_chat_field_is_named(
    http: httpx.AsyncClient,
    tokenizer: FakeTokenizer,
    field: str,
    value: Any,
    param: str | None,
    code: str | None,
) -> None:
    response = await http.post(CHAT, json={"model": MODEL, "messages": HELLO, field: value})
    if code is None:
        assert response.status_code == 200
        return
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert param in error["message"] or code == "invalid_value"
    assert tokenizer.requests == []


async def test_a_bound_is_said_to_the_last_digit(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, json={"messages": HELLO, "seed": 2**63})
    assert "Expected a value <= 9223372036854775807, but" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "value", "param", "code"),
    [
        ("prompt", [], "prompt", "array_below_min_length"),
        ("prompt", {}, "prompt", "invalid_type"),
        ("prompt", [1, "two"], "prompt[1]", "invalid_type"),
        ("prompt", [-1], "prompt[0]", "integer_below_min_value"),
        ("prompt", ["a"] * 257, "prompt", "array_above_max_length"),
        ("prompt", [2**32], "prompt[0]", "integer_above_max_value"),
        ("max_tokens", 0, "echo", "invalid_value"),
        ("best_of", 3, "best_of", "unsupported_parameter"),
        ("suffix", "the end", "suffix", "unsupported_parameter"),
        ("logprobs", -1, "logprobs", "integer_below_min_value"),
        ("logprobs", 21, "logprobs", "integer_above_max_value"),
        ("logprobs", True, "logprobs", "invalid_type"),
    ],
)
async def test_a_bad_completion_field_is_named(
    http: httpx.AsyncClient, field: str, value: Any, param: str, code: str
) -> None:
    response = await http.post(COMPLETIONS, json={"model": MODEL, "prompt": "hi", field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(("path", "missing"), [(CHAT, "messages"), (COMPLETIONS, "prompt")])
async def test_a_missing_parameter_is_named(http: httpx.AsyncClient, path: str, missing: str) -> None:
    error = (await http.post(path, json={"model": MODEL})).json()["error"]
    assert error["message"] == f"Missing required parameter: '{missing}'."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"temperature": Infinity}',
        b'{"model": "\\ud800"}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"max_tokens": ' + b"9" * 10_000 + b"}",
        b"{" + b",".join(b'"f%d":1' % number for number in range(1000)) + b"}",
    ],
    ids=lambda body: body[:20].decode("latin-1") or "empty",
)
async def test_what_is_not_a_json_object_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    response = await http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    good = await http.post(CHAT, json={"model": MODEL, "messages": HELLO})
    assert good.status_code == 200


async def test_template_variables_that_nest_too_deep_are_refused(http: httpx.AsyncClient) -> None:
    deep: Any = None
    for _ in range(500):
        deep = [deep]
    response = await http.post(
        CHAT, json={"model": MODEL, "messages": HELLO, "chat_template_kwargs": {"deep": deep}}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs"


@pytest.mark.parametrize(
    "model", [ChatCompletionRequest, CompletionRequest, TokenizeChatRequest, DetokenizeRequest]
)
async def test_much_that_is_wrong_is_not_all_listed(model: type[BaseModel]) -> None:
    """Each of a million errors would cost as much as the first, which is all that is told."""
    for field in model.model_fields:
        for much in [[]] * 1000, [{}] * 1000, ["x", 1] * 500, {str(key): [] for key in range(2000)}:
            body = {"messages": HELLO, "prompt": "hi", "tokens": [1], field: much}
            assert number_of_errors(model, body) <= 10, field


def number_of_errors(model: type[BaseModel], body: dict[str, Any]) -> int:
    try:
        model.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "stream",
        "stream_options",
        "max_tokens",
        "stop",
        "temperature",
        "top_p",
        "seed",
        "n",
        "x",
        "tools",
        "tool_choice",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "bad_words",
        "allowed_token_ids",
        "response_format",
        "chat_template_kwargs",
        "stop_token_ids",
    ]
)
MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "name", "tool_calls"]), JSON | st.just("user"), max_size=4
    )
)
BODIES = st.dictionaries(FIELDS, JSON | MESSAGES | st.just(MODEL), max_size=5)
OVERRIDES = st.builds(lambda some: {"model": MODEL, "messages": HELLO, "prompt": "hi", **some}, BODIES)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_no_body_whatever_is_a_server_error(gateway: str, path: str) -> None:
    def attack() -> None:
        with httpx.Client(base_url=gateway) as http:

            @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(JSON | BODIES | OVERRIDES)
            def no_body_is_a_server_error(body: Any) -> None:
                content = careless_json(body)
                response = http.post(path, content=content, headers={"content-type": "application/json"})
                assert response.status_code < 500, response.text

            no_body_is_a_server_error()

    await asyncio.to_thread(attack)


def careless_json(body: Any) -> bytes:
    """JSON that may hold NaN, Infinity and lone surrogates."""
    return json.dumps(body).encode()
