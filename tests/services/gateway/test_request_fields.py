"""What the tokenizer service is asked for, given what the HTTP request says."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "hi"}]


async def test_every_sampling_field_arrives(client: openai.AsyncOpenAI, tokenizer: FakeTokenizer) -> None:
    await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        temperature=0.5,
        top_p=0.25,
        seed=-7,
        presence_penalty=1.5,
        frequency_penalty=-0.5,
        stop=["\n", "END"],
        max_tokens=40,
        logit_bias={"50256": -100, "7": 1.5},
        logprobs=True,
        top_logprobs=4,
        extra_body={
            "bad_words": ["darn", "heck"],
            "allowed_token_ids": [7, 8],
            "top_k": 40,
            "min_p": 0.125,
            "repetition_penalty": 1.25,
            "min_tokens": 3,
            "stop_token_ids": [1, 2],
            "ignore_eos": True,
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
        },
    )
    (request,) = tokenizer.requests
    sampling, stop = request.sampling, request.stop
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.25, 40, 0.125)
    assert (sampling.seed, sampling.repetition_penalty) == (-7, 1.25)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.5, -0.5)
    assert (stop.max_tokens, stop.min_tokens, list(stop.stop_token_ids), stop.ignore_eos) == (
        40,
        3,
        [1, 2],
        True,
    )
    assert dict(sampling.logit_bias) == {50256: -100, 7: 1.5}
    assert list(sampling.allowed_token_ids) == [7, 8]
    assert list(request.bad_words) == ["darn", "heck"]
    assert request.logprobs.num_logprobs == 4
    assert list(request.stop_strings) == ["\n", "END"]
    assert request.include_stop_string
    assert not request.skip_special_tokens


async def test_what_is_left_out_stays_unset(client: openai.AsyncOpenAI, tokenizer: FakeTokenizer) -> None:
    await client.chat.completions.create(model=MODEL, messages=HELLO)
    (request,) = tokenizer.requests
    # But for the seed, which the gateway draws to continue the request elsewhere.
    assert [field.name for field, _ in request.sampling.ListFields()] == ["seed"]
    assert [field.name for field, _ in request.stop.ListFields()] == []
    assert not request.HasField("skip_special_tokens")
    assert not request.HasField("logprobs")


async def test_max_completion_tokens_takes_precedence_over_max_tokens(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=10, max_completion_tokens=20)
    assert tokenizer.requests[0].stop.max_tokens == 20


async def test_a_whole_number_may_be_written_with_a_point(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    numbers = {
        "max_tokens": 40.0,
        "n": 1.0,
        "seed": 7e3,
        "top_k": 5.0,
        "min_tokens": 2.0,
        "top_logprobs": 3.0,
    }
    body = {"model": MODEL, "messages": HELLO, "logprobs": True, **numbers}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    (request,) = tokenizer.requests
    assert (request.stop.max_tokens, request.stop.min_tokens) == (40, 2)
    assert (request.sampling.seed, request.sampling.top_k, request.logprobs.num_logprobs) == (7000, 5, 3)


async def test_a_top_k_of_minus_one_keeps_all_tokens(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    await client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"top_k": -1})
    assert tokenizer.requests[0].sampling.top_k == 0


async def test_one_stop_string_need_not_be_a_list(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    await client.chat.completions.create(model=MODEL, messages=HELLO, stop="END")
    assert list(tokenizer.requests[0].stop_strings) == ["END"]


async def test_a_conversation_arrives_whole(client: openai.AsyncOpenAI, tokenizer: FakeTokenizer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    await client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": "be kind"},
            {
                "role": "user",
                "name": "ann",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "2"},
        ],
        extra_body={
            "add_generation_prompt": False,
            "continue_final_message": True,
            "chat_template_kwargs": {"enable_thinking": False, "nested": [1, None]},
        },
    )
    chat = tokenizer.requests[0].chat
    assert [message.role for message in chat.messages] == ["developer", "system", "user", "assistant", "tool"]
    assert chat.messages[0].content == "be brief"
    assert [part.text for part in chat.messages[2].content_parts] == ["a", "b"]
    assert chat.messages[2].name == "ann"
    assert not chat.messages[3].HasField("content")
    assert chat.messages[3].tool_calls[0].arguments_json == '{"a":1}'
    assert chat.messages[4].tool_call_id == "call_1"
    assert not chat.add_generation_prompt
    assert chat.continue_final_message
    assert json.loads(chat.template_kwargs_json) == {"enable_thinking": False, "nested": [1, None]}


async def test_an_answer_can_be_sent_back_as_it_was_received(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    first = await client.chat.completions.create(model=MODEL, messages=HELLO)
    message = first.choices[0].message
    await client.chat.completions.create(
        model=MODEL,
        messages=[*HELLO, message.model_dump(), {"role": "user", "content": "and?"}],
    )
    assert tokenizer.requests[1].chat.messages[1].content == "hi"


async def test_fields_that_change_nothing_here_are_accepted(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        user="someone",
        metadata={"team": "x"},
        store=False,
        service_tier="auto",
        n=1,
        logprobs=False,
        response_format={"type": "text"},
        parallel_tool_calls=True,
    )
    assert answer.choices[0].message.content == "hi"


async def test_a_missing_content_type_is_taken_for_json(http: httpx.AsyncClient) -> None:
    body = json.dumps({"model": MODEL, "messages": HELLO}).encode()
    response = await http.post("/v1/chat/completions", content=body)
    assert "content-type" not in response.request.headers
    assert response.status_code == 200
