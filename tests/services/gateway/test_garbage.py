"""What a request takes is free as soon as it has ended, without the garbage collector: that looks at what has
lived for a while so rarely that the process would grow meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.garbage import uncollected
from tests.patience import until
from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TEXT = {"model": MODEL, "prompt": "once upon a time"}
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
REQUESTS = {
    "a text": (COMPLETIONS, TEXT),
    "a text as a stream": (COMPLETIONS, TEXT | {"stream": True}),
    "several prompts": (COMPLETIONS, TEXT | {"prompt": ["a", "b"]}),
    "a chat": (CHAT, HELLO),
    "a chat as a stream": (CHAT, HELLO | {"stream": True}),
    "a request that is refused": (COMPLETIONS, TEXT | {"max_tokens": -1}),
    "a path that there is not": ("/v1/nothing", TEXT),
}


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body that arrives after its head, and in parts."""
    await asyncio.sleep(0.01)
    yield body[:5]
    await asyncio.sleep(0.01)
    yield body[5:]


@pytest.mark.parametrize("is_in_pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_request_leaves_no_garbage(
    gateway: str, tokenizer: FakeTokenizer, path: str, body: dict[str, object], is_in_pieces: bool
) -> None:
    with uncollected("tokenwire_services", "uvicorn") as garbage:
        async with httpx.AsyncClient(base_url=gateway) as http:
            request = http.build_request("POST", path, json=body)
            content = _in_pieces(request.content) if is_in_pieces else request.content
            headers = {"content-type": "application/json", "content-length": str(len(request.content))}
            for _ in range(3):
                await http.post(path, content=content, headers=headers)
                content = _in_pieces(request.content) if is_in_pieces else request.content
        await until(lambda: tokenizer.live == {})
        await asyncio.sleep(0.05)
    assert garbage == {}


async def test_a_stream_that_is_cut_off_leaves_no_garbage(gateway: str, tokenizer: FakeTokenizer) -> None:
    with uncollected("tokenwire_services", "uvicorn") as garbage:
        async with httpx.AsyncClient(base_url=gateway) as http:
            body = TEXT | {"prompt": "word " * 200, "max_tokens": 1000, "stream": True}
            async with http.stream("POST", COMPLETIONS, json=body) as response:
                await anext(response.aiter_bytes())
        await until(lambda: tokenizer.live == {})
        await asyncio.sleep(0.05)
    assert garbage == {}
