"""What the OpenAPI document says of requests is what becomes of them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"role": "user", "content": "hi"}
CHAT = {"model": MODEL, "messages": [USER]}
COMPLETION = {"model": MODEL, "prompt": "hi"}


async def _is_valid(http: httpx.AsyncClient, body: dict[str, Any]) -> bool:
    """Whether the document allows a body."""
    components = (await http.get("/openapi.json")).json()["components"]
    name = "ChatCompletionRequest" if "messages" in body else "CompletionRequest"
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    return Draft202012Validator(schema).is_valid(body)


async def _status(http: httpx.AsyncClient, body: dict[str, Any]) -> int:
    endpoint = "chat/completions" if "messages" in body else "completions"
    return (await http.post(f"/v1/{endpoint}", json=body)).status_code


@pytest.mark.parametrize(
    "body",
    [
        CHAT | {"n": 0},
        CHAT | {"n": 129},
        CHAT | {"max_tokens": 0},
        CHAT | {"max_completion_tokens": 2**32},
        CHAT | {"logprobs": True, "top_logprobs": 21},
        CHAT | {"priority": -101},
        CHAT | {"modalities": ["audio"]},
        CHAT | {"functions": []},
        CHAT | {"messages": [{"role": "user"}]},
        CHAT | {"messages": [{"role": "system", "content": None}]},
        CHAT | {"messages": [USER, {"role": "tool", "content": "12"}]},
        CHAT | {"messages": [{"role": "user", "content": [{"type": "image", "text": "hi"}]}]},
        COMPLETION | {"max_tokens": -1},
        COMPLETION | {"logprobs": 21},
        COMPLETION | {"best_of": 0},
        COMPLETION | {"suffix": "end"},
        COMPLETION | {"use_beam_search": True},
    ],
)
async def test_what_is_refused_is_not_documented_as_allowed(
    http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    assert (await _is_valid(http, body), await _status(http, body)) == (False, 400)


@pytest.mark.parametrize(
    "body",
    [
        CHAT,
        CHAT | {"n": 2.0, "max_tokens": 5.0, "seed": -(2**63), "priority": 100},
        CHAT | {"modalities": ["text"], "functions": None, "audio": None},
        CHAT | {"messages": [USER, {"role": "assistant"}]},
        CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        COMPLETION | {"suffix": "", "use_beam_search": False, "best_of": 1.0},
    ],
)
async def test_what_is_documented_as_allowed_is_taken(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer, body: dict[str, Any]
) -> None:
    assert (await _is_valid(http, body), await _status(http, body)) == (True, 200)
