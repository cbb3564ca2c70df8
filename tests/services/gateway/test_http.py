"""What every endpoint does: keys, limits, unknown URLs, request ids, CORS, health, metrics, documentation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.services.gateway.conftest import running_gateway
from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def test_models_are_listed_and_described(client: openai.AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert (model.id, model.object, model.created) == (MODEL, "model", 1_700_000_000)
    assert await client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"


async def test_an_unknown_url_is_an_openai_error(http: httpx.AsyncClient) -> None:
    response = await http.get("/v1/embeddings")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"


async def test_a_wrong_method_is_an_openai_error(http: httpx.AsyncClient) -> None:
    response = await http.get(CHAT)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["code"] == "method_not_allowed"


async def test_another_content_type_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"


async def test_a_compressed_body_is_refused_by_its_encoding(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    assert "'gzip'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "/v1//chat/completions", "//v1/chat//completions/"]
)
async def test_a_slash_too_many_changes_nothing(tokenizer: FakeTokenizer, path: str) -> None:
    async with (
        running_gateway(tokenizer.port, api_keys=("given",)) as url,
        httpx.AsyncClient() as http,
    ):
        assert (await http.post(url + path, json=BODY)).status_code == 401
        answer = await http.post(url + path, json=BODY, headers={"authorization": "Bearer given"})
        assert answer.json()["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/v1/models", f"/v1/models/{MODEL}"])
async def test_head_is_a_get_without_its_body(http: httpx.AsyncClient, path: str) -> None:
    whole, head = await http.get(path), await http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert (await http.head(CHAT)).status_code == 405


async def test_a_key_is_needed_for_the_api_only(tokenizer: FakeTokenizer, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# the team's\nfrom-file\n\n")
    async with (
        running_gateway(tokenizer.port, api_keys=("given",), api_key_file=keys) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        for key in ("given", "from-file"):
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key)
            assert (await client.models.list()).data[0].id == MODEL
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="guessed")
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
        assert caught.value.code == "invalid_api_key"
        without = await http.post(CHAT, json=BODY)
        assert (without.status_code, without.headers["www-authenticate"]) == (401, "Bearer")
        assert (await http.get("/v1/models", headers={"authorization": "Basic given"})).status_code == 401
        for open_path in ("/health", "/metrics", "/docs", "/openapi.json"):
            assert (await http.get(open_path)).status_code == 200


async def test_a_body_over_the_limit_is_refused(tokenizer: FakeTokenizer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    async with (
        running_gateway(tokenizer.port, max_body_bytes=1000) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        declared = await http.post(CHAT, content=b" " * 4_000_000)
        counted = await http.post(CHAT, content=pieces())
        for response in (declared, counted):
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "request_too_large"
        assert (await http.post(CHAT, json=BODY)).status_code == 200


async def test_a_request_keeps_its_id_when_it_is_sane(http: httpx.AsyncClient) -> None:
    named = await http.get("/health", headers={"x-request-id": "abc-123"})
    assert named.headers["x-request-id"] == "abc-123"
    for odd in ("x" * 200, "a b", ""):
        response = await http.get("/health", headers={"x-request-id": odd})
        assert response.headers["x-request-id"].startswith("req-")
    assert (await http.get("/nowhere")).headers["x-request-id"].startswith("req-")


async def test_pages_of_allowed_origins_may_call(tokenizer: FakeTokenizer) -> None:
    async with (
        running_gateway(tokenizer.port, cors_origins=("https://a.example",), api_keys=("k",)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
        preflight = await http.options(CHAT, headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        refused = await http.post(CHAT, json=BODY, headers={"origin": "https://a.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
        stranger = await http.get("/health", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in stranger.headers


async def test_health_is_the_tokenizer_services(http: httpx.AsyncClient, tokenizer: FakeTokenizer) -> None:
    assert (await http.get("/health")).json() == {"status": "ok"}
    await tokenizer.set_healthy(False)
    response = await http.get("/health")
    assert response.status_code == 503
    assert "tokenizer service" in response.json()["error"]["message"]


async def test_metrics_count_requests_and_tokens(tokenizer: FakeTokenizer) -> None:
    three_words = {**BODY, "messages": [{"role": "user", "content": "a b c"}], "stream": True}
    async with running_gateway(tokenizer.port) as url, httpx.AsyncClient(base_url=url) as http:
        await http.post(CHAT, json=three_words)
        await http.post(CHAT, json={**BODY, "model": "other"})
        text = (await http.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values[f'tokenwire_http_requests_total{{endpoint="{CHAT}",status="200"}}'] == "1.0"
    assert values[f'tokenwire_http_requests_total{{endpoint="{CHAT}",status="404"}}'] == "1.0"
    assert values["tokenwire_http_requests_in_flight"] == "1.0"  # this one
    assert values["tokenwire_prompt_tokens_total"] == "4.0"
    assert values["tokenwire_generation_tokens_total"] == "3.0"
    assert values["tokenwire_time_to_first_token_seconds_count"] == "1.0"
    assert values["tokenwire_inter_token_latency_seconds_count"] == "2.0"


async def test_the_documentation_describes_requests_answers_and_errors(http: httpx.AsyncClient) -> None:
    assert "swagger" in (await http.get("/docs")).text.lower()
    description = (await http.get("/openapi.json")).json()
    chat = description["paths"][CHAT]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "/ChatCompletionRequest"
    )
    assert {"application/json", "text/event-stream"} == set(chat["responses"]["200"]["content"])
    assert {"400", "404", "413", "429", "503", "default"} <= set(chat["responses"])
    assert "422" not in chat["responses"]
    assert "temperature" in description["components"]["schemas"]["ChatCompletionRequest"]["properties"]
