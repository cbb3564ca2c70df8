"""The connection to the engine: waiting for it, losing it, getting it back."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tokenizers import Tokenizer

from tests.patience import until
from tests.services.tokenizer.client import Request, generate, open_session, refusal, text_of
from tests.services.tokenizer.conftest import TEXT, Service, saying, start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.status import StatusError
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.tokenizer import engine_health
from tokenwire_services.tokenizer.model import ModelFilesError, load_model

NAME = "tokenwire.v1.Tokenizer"


async def test_it_waits_for_an_engine_that_still_loads(engine: FakeEngine) -> None:
    await engine.set_serving(False)
    async for service in start_service(engine, wait=False):
        assert await service.is_down(NAME)
        error = await refusal(service, Request(text="Hello"))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert error.retry_after_s == 1.0

        await engine.set_serving(True)
        await until(service.is_up)
        assert text_of(await generate(service, Request(text="Hello"))) == TEXT


async def test_it_waits_for_an_engine_that_is_not_there_yet(engine: FakeEngine) -> None:
    await engine.stop()
    async for service in start_service(engine, wait=False):
        assert await service.is_down(NAME)
        await engine.start()
        await until(service.is_up)


async def test_what_keeps_it_from_an_engine_is_said(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_health, "_SILENCE_S", 0.1)
    await engine.stop()
    async for service in start_service(engine, wait=False):
        await until(lambda: f"no engine at 127.0.0.1:{engine.port}: " in caplog.text)
        assert "Connection refused" in caplog.text
        await engine.start()
        await until(service.is_up)


@pytest.mark.parametrize("failover_timeout_s", [0.0, 0.2])
async def test_requests_in_flight_fail_when_no_engine_comes_back_in_time_and_new_ones_succeed_when_it_does(
    engine: FakeEngine, tokenizer: Tokenizer, failover_timeout_s: float
) -> None:
    engine.reply = saying(tokenizer, TEXT * 200)
    async for service in start_service(engine, failover_timeout_s=failover_timeout_s):
        peer = await open_session(service)
        await peer.submit(0, Request(text="Hello"))
        await peer.read()
        await engine.stop()

        ended = await peer.finish(1)
        assert StatusError.from_proto(ended[0].error).retry_after_s == 1.0
        await until(service.is_down)
        assert (await refusal(service, Request(text="Hello"))).code is grpc.StatusCode.UNAVAILABLE

        engine.reply = saying(tokenizer, "back")
        await engine.start()
        await until(service.is_up)
        assert text_of(await generate(service, Request(text="Hello"))) == "back"
        await peer.submit(0, Request(text="Hello"))  # the peer's own session went on
        await peer.finish(1)
        assert peer.text(0).endswith("back")


async def test_requests_in_flight_go_on_when_the_engine_comes_back(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.reply = saying(tokenizer, TEXT * 20)
    peer = await open_session(service)
    await peer.submit(0, Request(text="Hello"))
    await peer.read()
    await engine.stop()
    await engine.start()

    ended = await peer.finish(1)
    assert peer.text(0) == TEXT * 20
    assert ended[0].usage.completion_tokens == len(tokenizer.encode(TEXT * 20).ids) + 1
    first, moved = engine.requests
    assert moved.prompt_token_ids == first.prompt_token_ids
    assert moved.sampling == first.sampling
    assert first.sampling.HasField("seed")
    assert len(moved.resumed_token_ids) > 0


async def test_requests_go_on_when_the_engine_breaks_the_protocol_and_fail_when_it_goes_on_so(
    service: Service, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.garbled_steps = 1
    assert text_of(await generate(service, Request(text="Hello"))) == TEXT
    assert f"the session with the engine at 127.0.0.1:{engine.port} failed" in caplog.text

    engine.garbled_steps = 1 << 30
    error = await refusal(service, Request(text="Hello"))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.message == "the request has lost 4 engines and is not tried again"

    engine.garbled_steps = 0
    assert text_of(await generate(service, Request(text="Hello"))) == TEXT


async def test_a_request_that_is_submitted_during_a_brief_outage_waits_for_its_end(
    service: Service, engine: FakeEngine
) -> None:
    await engine.set_serving(False)
    engine.break_sessions()
    answer = asyncio.create_task(generate(service, Request(text="Hello")))
    await asyncio.sleep(0.1)
    await engine.set_serving(True)
    assert text_of(await answer) == TEXT


async def test_requests_fail_when_the_engine_comes_back_with_another_model(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.reply = saying(tokenizer, TEXT * 200)
    peer = await open_session(service)
    await peer.submit(0, Request(text="Hello"))
    await peer.read()
    await engine.stop()
    engine.info.architecture = "Other"
    await engine.start()

    error = StatusError.from_proto((await peer.finish(1))[0].error)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert "another model" in error.message


async def test_a_request_that_loses_one_engine_after_another_is_given_up(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.reply = saying(tokenizer, TEXT * 1000)
    peer = await open_session(service)
    await peer.submit(0, Request(text="Hello"))
    for sessions in range(1, 5):
        await until(lambda wanted=sessions: len(engine.requests) == wanted)  # type: ignore[misc]
        engine.break_sessions()
    error = StatusError.from_proto((await peer.finish(1))[0].error)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert "has lost 4 engines" in error.message


async def test_the_tokenizer_is_loaded_again_only_for_another_engine_process(
    service: Service, engine: FakeEngine
) -> None:
    engine.break_sessions()
    await until(lambda: engine.sessions == 2)
    await until(service.is_up)
    assert engine.file_requests == 1

    await engine.stop()
    engine.info.served_names[0] = "other"
    await engine.start()
    await until(lambda: engine.sessions == 3)
    assert engine.file_requests == 2
    models = (await service.stub.ListModels(tokenizer_pb2.ListModelsRequest())).models
    assert models[0].name == "other"


def test_a_model_without_a_tokenizer_json_says_what_is_supported(engine: FakeEngine) -> None:
    with pytest.raises(ModelFilesError, match=r"no tokenizer\.json \(it has: spiece\.model\).*supported"):
        load_model(engine.info, {"spiece.model": b""})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b'{"model": 1}'),
        ("tokenizer.json", b"\xff"),
        ("tokenizer_config.json", b"\xff"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b'{"chat_template": 7}'),
        ("tokenizer_config.json", b'{"chat_template": [7]}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}'),
        ("chat_template.jinja", b"\xff"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_that_cannot_be_read_is_named(
    engine: FakeEngine, files: dict[str, bytes], name: str, content: bytes
) -> None:
    others = {other: files[other] for other in files if other != "chat_template.jinja"}
    with pytest.raises(ModelFilesError, match=name):
        load_model(engine.info, others | {name: content})


def test_named_templates_and_special_tokens_are_read_from_the_tokenizers_config(
    engine: FakeEngine, files: dict[str, bytes]
) -> None:
    config = (
        b'{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": ['
        b'{"name": "default", "template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}"},'
        b'{"name": "tool_use", "template": "tools"}]}'
    )
    only = {"tokenizer.json": files["tokenizer.json"], "tokenizer_config.json": config}
    model = load_model(engine.info, only | {"special_tokens_map.json": b'{"pad_token": "<pad>"}'})

    assert model.chat_template is not None
    messages = [{"role": "user", "content": ""}]
    assert model.chat_template.render(messages) == "<s></s><pad>"
    assert model.chat_template.render(messages, tools=[]) == "tools"


def test_a_model_without_a_template_serves_text_only(engine: FakeEngine, files: dict[str, bytes]) -> None:
    model = load_model(engine.info, {"tokenizer.json": files["tokenizer.json"]})

    assert model.chat_template is None
    assert "no chat template" in model.chat_template_problem
