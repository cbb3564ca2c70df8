"""Log-probabilities on the wire, from the real runner: one request's, and a session's by slot."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.engine.running import serving
from tokenwire.v1 import engine_pb2_grpc
from tokenwire.v1.engine_pb2 import GenerateRequest, SessionRequest
from tokenwire.v1.generation_pb2 import LogprobColumns, LogprobOptions, SamplingParams, StopConditions
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.server import logprobs as pending

PROMPT = [5 + index for index in range(60)]


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[engine_pb2_grpc.EngineAsyncStub]:
    checkpoint = str(write_checkpoint(tmp_path / "model"))
    config = {"device": "cpu", "dtype": "float32", "max_step_tokens": 32}
    async with serving(load_runner, model=checkpoint, **config) as stub:
        yield stub


def request(tokens: int | None, prompt: int | None = None) -> GenerateRequest:
    return GenerateRequest(
        prompt_token_ids=PROMPT,
        sampling=SamplingParams(temperature=0),
        stop=StopConditions(max_tokens=6, ignore_eos=True),
        logprobs=LogprobOptions(num_logprobs=tokens, num_prompt_logprobs=prompt),
    )


async def generate(
    stub: engine_pb2_grpc.EngineAsyncStub, message: GenerateRequest
) -> tuple[list[int], LogprobColumns, LogprobColumns]:
    """Tokens, their columns, and the prompt's."""
    token_ids: list[int] = []
    tokens, prompt = LogprobColumns(), LogprobColumns()
    async for response in stub.Generate(message):
        token_ids += response.token_ids
        wanted = message.logprobs.HasField("num_logprobs")
        assert response.HasField("logprobs") == (wanted and bool(response.token_ids))
        num_top = response.logprobs.num_top
        tokens.MergeFrom(response.logprobs)
        prompt.MergeFrom(response.prompt_logprobs)
        assert len(response.logprobs.top_token_ids) == num_top * len(response.logprobs.token_logprobs)
    return token_ids, tokens, prompt


async def test_a_greedy_token_is_the_most_likely_alternative(stub: engine_pb2_grpc.EngineAsyncStub) -> None:
    token_ids, tokens, prompt = await generate(stub, request(tokens=3))
    assert list(tokens.token_ranks) == [1] * 6
    assert list(tokens.top_token_ids[::3]) == token_ids
    assert list(tokens.top_logprobs[::3]) == list(tokens.token_logprobs)
    assert all(logprob < 0 for logprob in tokens.token_logprobs)
    assert prompt == LogprobColumns()


async def test_no_alternatives_still_give_the_tokens_own(stub: engine_pb2_grpc.EngineAsyncStub) -> None:
    _, tokens, _ = await generate(stub, request(tokens=0))
    assert len(tokens.token_logprobs) == 6
    assert not tokens.top_token_ids


async def test_a_prompt_in_chunks_has_one_for_each_token_but_the_first(
    stub: engine_pb2_grpc.EngineAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "MAX_MESSAGE_LOGPROBS", 10)
    message = request(tokens=None, prompt=2)
    message.prompt_token_ids.extend(PROMPT)
    _, _, prompt = await generate(stub, message)
    assert len(prompt.token_logprobs) == len(message.prompt_token_ids) - 1
    assert all(math.isfinite(logprob) for logprob in prompt.top_logprobs)


async def test_a_session_gets_them_by_slot(stub: engine_pb2_grpc.EngineAsyncStub) -> None:
    alone, alone_tokens, alone_prompt = await generate(stub, request(tokens=2, prompt=1))
    call = stub.Session()
    await call.write(SessionRequest(open=SessionRequest.Open(session_id=str(uuid.uuid4()))))
    for slot, message in {3: request(tokens=2, prompt=1), 4: request(None), 5: request(0)}.items():
        await call.write(SessionRequest(submit=SessionRequest.Submit(slot=slot, request=message)))
    await call.done_writing()
    columns = {slot: (LogprobColumns(), LogprobColumns()) for slot in (3, 4, 5)}
    token_ids: list[int] = []
    async for response in call:
        for part in response.logprobs:
            arrived = sum(slot == part.slot for slot in response.slots)
            assert len(part.tokens.token_logprobs) in (0, arrived)
            columns[part.slot][0].MergeFrom(part.tokens)
            columns[part.slot][1].MergeFrom(part.prompt)
        token_ids += [
            token for slot, token in zip(response.slots, response.token_ids, strict=True) if slot == 3
        ]
    assert token_ids == alone
    assert list(columns[3][0].top_token_ids) == list(alone_tokens.top_token_ids)
    assert columns[3][0].token_logprobs == pytest.approx(list(alone_tokens.token_logprobs), abs=1e-4)
    assert columns[3][1].token_logprobs == pytest.approx(list(alone_prompt.token_logprobs), abs=1e-4)
    assert columns[4] == (LogprobColumns(), LogprobColumns())
    assert len(columns[5][0].token_logprobs) == 6
