"""/tokenize and /detokenize, as vLLM's clients call them; /version and /ping."""

from __future__ import annotations

from importlib.metadata import version

import httpx
import pytest

from tests.services.gateway.conftest import running_gateway
from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_text_is_encoded(http: httpx.AsyncClient, tokenizer: FakeTokenizer) -> None:
    body = {"model": MODEL, "prompt": "once upon a time", "add_special_tokens": False}
    response = await http.post("/tokenize", json=body)
    expected = {"count": 4, "max_model_len": 4096, "tokens": [4, 4, 1, 4], "token_strs": None}
    assert response.json() == expected
    assert tokenizer.tokenized[0].add_special_tokens is False


async def test_tokens_come_as_text_on_request(http: httpx.AsyncClient) -> None:
    response = await http.post("/tokenize", json={"prompt": "once upon", "return_token_strs": True})
    assert response.json()["token_strs"] == ["once", "upon"]


async def test_a_conversation_is_rendered_as_for_an_answer(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = {"messages": messages, "add_generation_prompt": False, "chat_template_kwargs": {"a": 1}}
    response = await http.post("/tokenize", json=body)
    assert response.json()["tokens"] == [2]
    chat = tokenizer.tokenized[0].chat
    assert (chat.messages[0].content, chat.add_generation_prompt) == ("hi", False)
    assert chat.template_kwargs_json == '{"a":1}'


async def test_token_ids_are_decoded(http: httpx.AsyncClient) -> None:
    response = await http.post("/detokenize", json={"tokens": [1, 2, 3]})
    assert response.json() == {"prompt": "1 2 3"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"messages": []}, 400, "messages"),
        ("/detokenize", {"tokens": [1001]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
    ],
)
async def test_what_is_wrong_is_named(
    http: httpx.AsyncClient, path: str, body: dict[str, object], status: int, param: str
) -> None:
    response = await http.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


async def test_what_costs_work_needs_a_key(service: FakeTokenizer) -> None:
    async with (
        running_gateway(service.port, api_keys=("secret",)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        for path in ("/tokenize", "/detokenize"):
            assert (await http.post(path, json={})).status_code == 401
        for path in ("/ping", "/version"):
            assert (await http.get(path)).status_code == 200


async def test_the_version_is_told(http: httpx.AsyncClient) -> None:
    assert (await http.get("/version")).json() == {"version": version("tokenwire")}


async def test_ping_says_whether_requests_can_be_served(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    assert (await http.get("/ping")).status_code == (await http.post("/ping")).status_code == 200
    await tokenizer.set_healthy(False)
    assert (await http.get("/ping")).status_code == 503
