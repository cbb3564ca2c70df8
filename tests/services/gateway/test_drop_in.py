"""What clients written for OpenAI, vLLM and other servers send beyond what is acted on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer
from tokenwire_services.gateway.schemas.base import GenerationRequest
from tokenwire_services.gateway.schemas.chat import ChatCompletionRequest
from tokenwire_services.gateway.schemas.completions import CompletionRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("add", "divide", "multiply")]


async def test_fields_that_nobody_knows_are_passed_over_and_named(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "messages": HELLO, "temprature": 0.5, "chat_id": "x", "a\r\nb: c": 1}
    response = await http.post(CHAT, json=body)
    assert response.status_code == 200
    assert response.headers["x-tokenwire-ignored"] == "chat_id,temprature"
    streamed = await http.post(CHAT, json={**body, "stream": True})
    assert streamed.headers["x-tokenwire-ignored"] == "chat_id,temprature"


async def test_a_request_of_known_fields_has_none_named(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, json={"model": MODEL, "messages": HELLO, "user": "someone"})
    assert "x-tokenwire-ignored" not in response.headers


@pytest.mark.parametrize(
    ("create", "schema"),
    [
        (openai.resources.chat.Completions.create, ChatCompletionRequest),
        (openai.resources.Completions.create, CompletionRequest),
    ],
)
async def test_every_parameter_that_the_openai_package_takes_is_known(
    create: Callable[..., object], schema: type[GenerationRequest]
) -> None:
    of_the_package = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    assert inspect.signature(create).parameters.keys() - of_the_package <= schema.model_fields.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"use_beam_search": False, "length_penalty": 1.0, "watermarking": None},
        {"session_id": "s", "stream_interval": 4, "spaces_between_special_tokens": True},
        {"prediction": {"type": "content", "content": "hi"}, "prompt_cache_retention": "24h"},
        {"prompt_cache_options": {"ttl": "30m"}, "moderation": None},
        {"mm_processor_kwargs": {}, "vllm_xargs": None, "logprob_token_ids": []},
        {
            "structured_outputs": {
                "choice": ["hi"],
                "whitespace_pattern": None,
                "disable_any_whitespace": False,
            }
        },
        {"guided_json": None, "guided_decoding_backend": "xgrammar"},
        {"verbosity": "medium", "modalities": ["text"], "functions": None},
        {"stream": True, "stream_options": {"include_usage": True, "later": 1}},
    ],
    ids=str,
)
async def test_what_would_not_change_the_answer_is_taken(
    http: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    response = await http.post(CHAT, json={"model": MODEL, "messages": HELLO, **change})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "message",
    [
        {
            "content": None,
            "refusal": None,
            "audio": None,
            "annotations": [],
            "function_call": None,
            "tool_calls": [{**CALL, "index": 0}],
        },
        {"content": "2", "tool_calls": None, "reasoning": "1 + 1", "reasoning_details": [{"text": "1 + 1"}]},
        {
            "content": "2",
            "id": "msg_1",
            "provider_specific_fields": {},
            "annotations": [{"type": "citation"}],
        },
        {"content": [{"type": "text", "text": "2", "cache_control": {"type": "ephemeral"}}]},
        {"content": None},
        {"content": None, "refusal": "No."},
        {},
    ],
    ids=str,
)
async def test_what_sdks_send_back_of_an_answer_is_taken(
    http: httpx.AsyncClient, message: dict[str, Any]
) -> None:
    messages = [*HELLO, {"role": "assistant", **message}, {"role": "user", "content": "and?"}]
    response = await http.post(CHAT, json={"model": MODEL, "messages": messages})
    assert response.status_code == 200, response.text


async def test_reasoning_is_taken_back_under_either_name(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    for name in "reasoning", "reasoning_content":
        answer: Any = {"role": "assistant", "content": "2", name: "1 + 1"}
        await client.chat.completions.create(model=MODEL, messages=[*HELLO, answer, *HELLO])
    assert [request.chat.messages[1].reasoning_content for request in tokenizer.requests] == ["1 + 1"] * 2


async def test_a_refusal_stands_for_the_content(client: openai.AsyncOpenAI, tokenizer: FakeTokenizer) -> None:
    answer: Any = {"role": "assistant", "content": None, "refusal": "No."}
    await client.chat.completions.create(model=MODEL, messages=[*HELLO, answer, *HELLO])
    assert tokenizer.requests[0].chat.messages[1].content == "No."


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_only_allowed_tools_are_offered(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, mode: Any
) -> None:
    allowed: Any = [{"type": "function", "function": {"name": name}} for name in ("multiply", "add")]
    await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        tools=TOOLS,
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}},
    )
    chat = tokenizer.requests[0].chat
    assert ([tool.name for tool in chat.tools], chat.tool_choice) == (["add", "multiply"], mode)


async def test_allowed_tools_are_some_of_the_tools(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            tools=TOOLS,
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "subtract"}}],
                },
            },
        )
    assert caught.value.param == "tool_choice"


async def test_a_tool_is_a_function_unless_it_says_otherwise(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    body = {
        "model": MODEL,
        "messages": HELLO,
        "tools": [{"function": {"name": "add"}, "cache_control": {}}],
        "tool_choice": {"function": {"name": "add"}},
    }
    assert (await http.post(CHAT, json=body)).status_code == 200
    assert tokenizer.requests[0].chat.tool_choice == "add"
    custom = await http.post(CHAT, json={**body, "tools": [{"type": "custom", "custom": {"name": "x"}}]})
    assert custom.json()["error"]["param"] == "tools[0].type"
