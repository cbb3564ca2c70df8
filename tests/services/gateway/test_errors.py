"""Errors from below, as HTTP and as OpenAI's client raises them."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import httpx
import openai
import pytest

from tests.patience import until
from tests.services.gateway.conftest import running_gateway
from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer, Request
from tokenwire.status import (
    CONTEXT_LENGTH_EXCEEDED,
    StatusError,
    invalid_argument,
    resource_exhausted,
    unavailable,
    unimplemented,
)
from tokenwire_services.gateway.errors import BY_GRPC_STATUS

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    "code", sorted(BY_GRPC_STATUS, key=lambda code: code.name), ids=lambda code: code.name
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_each_grpc_status_has_its_http_status_and_code(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer, code: grpc.StatusCode, stream: bool
) -> None:
    tokenizer.answer = lambda request: Answer(error=StatusError(code, "because"))
    response = await http.post(CHAT, json={**BODY, "stream": stream})
    kind = BY_GRPC_STATUS[code]
    assert response.status_code == kind.status
    error = response.json()["error"]
    assert (error["type"], error["code"], error["message"]) == (kind.type, kind.code, "because")
    assert ("retry-after" in response.headers) == (kind.status in (429, 503))


async def test_a_prompt_beyond_the_context_has_openais_code_for_it(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    too_long = invalid_argument("chat.messages", "9 tokens; shorten it", CONTEXT_LENGTH_EXCEEDED)
    tokenizer.answer = lambda request: Answer(error=too_long)
    error = (await http.post(CHAT, json=BODY)).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="other", messages=BODY["messages"])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("path", "chat_name", "completions_name"),
    [
        ("sampling.top_p", "top_p", "top_p"),
        ("stop.max_tokens", "max_tokens", "max_tokens"),
        ("truncation.max_tokens", "truncate_prompt_tokens", "truncate_prompt_tokens"),
        ("stop_strings[3]", "stop[3]", "stop[3]"),
        ("include_stop_string", "include_stop_str_in_output", "include_stop_str_in_output"),
        ("chat.messages[2].role", "messages[2].role", "prompt"),
        ("chat.messages[2].content_parts[1]", "messages[2].content[1]", "prompt"),
        (
            "chat.messages[1].tool_calls[0].arguments_json",
            "messages[1].tool_calls[0].function.arguments",
            "prompt",
        ),
        ("chat.tools", "tools", "prompt"),
        ("chat.tools[0].parameters_json", "tools[0].function.parameters", "prompt"),
        ("chat", "messages", "prompt"),
        ("text", "messages", "prompt"),
        ("token_ids.ids[4]", "messages", "prompt[4]"),
    ],
)
async def test_a_field_is_named_as_in_the_json(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer, path: str, chat_name: str, completions_name: str
) -> None:
    tokenizer.answer = lambda request: Answer(error=invalid_argument(path, "too odd"))
    if path.startswith(("chat", "sampling", "stop", "include")):
        error = (await http.post(CHAT, json=BODY)).json()["error"]
        assert error["param"] == chat_name
        assert error["message"] == f"{chat_name}: too odd"
    if not path.startswith("chat"):
        error = (await http.post("/v1/completions", json={"model": MODEL, "prompt": "hi"})).json()["error"]
        assert error["param"] == completions_name


async def test_what_is_not_supported_below_is_an_unsupported_parameter(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: Answer(error=unimplemented("stop.min_tokens"))
    response = await http.post(CHAT, json={**BODY, "min_tokens": 3})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("min_tokens", "unsupported_parameter")


async def test_the_time_to_retry_after_is_passed_on(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: Answer(error=unavailable("the engine restarts", retry_after_s=6.2))
    response = await http.post(CHAT, json=BODY)
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")


@pytest.mark.parametrize("error", [unavailable, resource_exhausted])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_openais_client_tries_again_when_it_is_told_to(
    gateway: str, tokenizer: FakeTokenizer, error: Callable[[str, float], StatusError], stream: bool
) -> None:
    def answer(request: Request) -> Answer:
        return Answer(error=error("busy", 0.1)) if len(tokenizer.requests) == 1 else Answer(["hello"])

    tokenizer.answer = answer
    async with openai.AsyncOpenAI(base_url=f"{gateway}/v1", api_key="any", max_retries=1) as client:
        if stream:
            chunks = await client.chat.completions.create(model=MODEL, messages=BODY["messages"], stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        else:
            whole = await client.chat.completions.create(model=MODEL, messages=BODY["messages"])
            text = whole.choices[0].message.content or ""
    assert (text, len(tokenizer.requests)) == ("hello", 2)


async def test_an_error_after_the_first_text_is_the_streams_last_event(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: Answer(["some", " text"], error=unavailable("the engine died"))
    stream = await client.chat.completions.create(stream=True, **BODY)
    texts: list[str] = []
    with pytest.raises(openai.APIError, match="the engine died"):
        texts.extend([chunk.choices[0].delta.content async for chunk in stream])
    raw = (await http.post(CHAT, json={**BODY, "stream": True})).text
    assert raw.rstrip().rpartition("\n\n")[2].startswith('data: {"error":')
    assert "[DONE]" not in raw


async def test_one_failing_prompt_of_several_ends_the_others(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: (
        Answer(error=invalid_argument("text", "bad")) if request.text == "bad" else Answer(endless=True)
    )
    response = await http.post("/v1/completions", json={"model": MODEL, "prompt": ["good", "bad"]})
    assert response.status_code == 400
    await until(lambda: len(tokenizer.cancelled) == 1)


async def test_a_request_that_takes_too_long_is_cancelled(tokenizer: FakeTokenizer) -> None:
    tokenizer.answer = lambda request: Answer(endless=True)
    async with (
        running_gateway(tokenizer.port, request_timeout_s=0.05) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        response = await http.post(CHAT, json=BODY)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "timeout"
    assert len(tokenizer.cancelled) == 1
