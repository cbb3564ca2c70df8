"""Generate: one request, one stream, from text to text."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from tokenizers import Tokenizer

from tests.patience import until
from tests.services.tokenizer.client import HELLO, ChatMessage, Request, chat, generate, refusal, text_of
from tests.services.tokenizer.conftest import TEXT, Service, saying
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.status import invalid_argument, unimplemented
from tokenwire.v1 import generation_pb2, tokenizer_pb2

DEEP = '{"a":' * 65 + "1" + "}" * 65


async def test_the_text_of_all_deltas_is_what_the_engine_said(service: Service, tokenizer: Tokenizer) -> None:
    responses = await generate(service, Request(text="Hello"))

    assert text_of(responses) == TEXT
    assert responses[-1].finish_reason == generation_pb2.FINISH_REASON_STOP
    assert responses[-1].stop_token_id == tokenizer.token_to_id("<|im_end|>")
    assert responses[-1].usage.completion_tokens == len(tokenizer.encode(TEXT).ids) + 1
    assert responses[-1].usage.prompt_tokens == len(tokenizer.encode("Hello").ids)


async def test_a_chat_is_rendered_and_encoded_without_further_special_tokens(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    await generate(service, chat())

    rendered = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert list(engine.requests[0].prompt_token_ids) == tokenizer.encode(rendered).ids


async def test_token_ids_are_returned_when_asked_for(service: Service, tokenizer: Tokenizer) -> None:
    responses = await generate(service, Request(text="Hello", return_token_ids=True))

    prompt = [token for response in responses for token in response.prompt_token_ids]
    output = [token for response in responses for token in response.token_ids]
    assert prompt == tokenizer.encode("Hello").ids
    assert output == tokenizer.encode(TEXT + "<|im_end|>").ids
    assert text_of(responses) == TEXT


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_ends_the_request_here_and_at_the_engine(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer, include: bool
) -> None:
    engine.reply = saying(tokenizer, TEXT * 20)
    responses = await generate(
        service, Request(text="Hello", stop_strings=["blue. A", "sky is"], include_stop_string=include)
    )

    assert text_of(responses) == TEXT[: TEXT.index("sky is") + (6 if include else 0)]
    assert responses[-1].finish_reason == generation_pb2.FINISH_REASON_STOP
    assert responses[-1].stop_string == "sky is"
    until_stop = tokenizer.encode(TEXT[: TEXT.index("sky is") + len("sky is")]).ids
    assert responses[-1].usage.completion_tokens == len(until_stop)
    await until(lambda: engine.cancelled and not engine.live)


async def test_text_held_back_for_a_stop_string_comes_at_the_end(service: Service) -> None:
    assert text_of(await generate(service, Request(text="Hello", stop_strings=["five. six"]))) == TEXT


async def test_special_tokens_are_shown_on_request(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.reply = saying(tokenizer, "a<|endoftext|>b")

    hidden = await generate(service, Request(text="Hello"))
    shown = await generate(service, Request(text="Hello", skip_special_tokens=False))

    assert (text_of(hidden), text_of(shown)) == ("ab", "a<|endoftext|>b")


async def test_unset_sampling_parameters_are_the_models_recommended_ones(
    service: Service, engine: FakeEngine
) -> None:
    await generate(service, Request(text="Hello"))
    await generate(service, Request(text="Hello", sampling={"temperature": 0.0, "top_p": 0.9}))

    first, second = (request.sampling for request in engine.requests)
    assert (first.temperature, first.top_k, first.HasField("top_p")) == (0.5, 20, False)
    assert (second.temperature, second.top_k, second.top_p) == (0.0, 20, pytest.approx(0.9))


async def test_a_caller_that_hangs_up_has_its_request_cancelled(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.reply = saying(tokenizer, TEXT * 100)
    call = service.stub.Generate(Request(text="Hello"))
    await call.read()
    call.cancel()

    await until(lambda: engine.cancelled and not engine.live)


async def test_a_missed_deadline_cancels_the_request(service: Service, engine: FakeEngine) -> None:
    engine.flowing.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Generate(Request(text="Hello"), timeout=0.2).read()

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: engine.cancelled)


WEATHER = tokenizer_pb2.ToolDefinition(
    name="get_weather", parameters_json='{"type": "object", "properties": {"city": {"type": "string"}}}'
)


async def test_a_tool_call_comes_out_as_structure(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    engine.reply = saying(tokenizer, f"One call.\n{call}")

    responses = await generate(service, chat(tools=[WEATHER]))

    first, *others = (delta for response in responses for delta in response.tool_calls)
    assert (first.index, first.name, first.arguments_delta) == (0, "get_weather", "")
    assert first.id
    assert not any(delta.index or delta.id or delta.name for delta in others)
    assert len(others) > 1
    assert json.loads("".join(delta.arguments_delta for delta in others)) == {"city": "Paris"}
    assert text_of(responses) == "One call."
    assert responses[-1].finish_reason == generation_pb2.FINISH_REASON_TOOL_CALLS
    assert '"name": "get_weather"' in tokenizer.decode(engine.requests[0].prompt_token_ids)


async def test_a_broken_tool_call_comes_out_as_text(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.reply = saying(tokenizer, "One <tool_call>{weather}</tool_call>")

    responses = await generate(service, chat(tools=[WEATHER]))

    assert text_of(responses) == "One <tool_call>{weather}</tool_call>"
    assert responses[-1].finish_reason == generation_pb2.FINISH_REASON_STOP


async def test_tool_choice_none_leaves_the_tools_out(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    await generate(service, chat(tools=[WEATHER], tool_choice="none"))

    assert "get_weather" not in tokenizer.decode(engine.requests[0].prompt_token_ids)


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (Request(), "INVALID_ARGUMENT", "prompt"),
        (Request(text=""), "INVALID_ARGUMENT", "prompt"),
        (Request(text="word " * 600), "INVALID_ARGUMENT", "prompt"),
        (Request(token_ids={"ids": [1, 99_999]}), "INVALID_ARGUMENT", "prompt"),
        (Request(chat={}), "INVALID_ARGUMENT", "chat.messages"),
        (chat(ChatMessage(role="user", content="word " * 600)), "INVALID_ARGUMENT", "chat.messages"),
        (chat(HELLO, ChatMessage(role="robot")), "INVALID_ARGUMENT", "chat.messages[1].role"),
        (chat(template_kwargs_json="[1]"), "INVALID_ARGUMENT", "chat.template_kwargs_json"),
        (chat(template_kwargs_json='{"messages": 1}'), "INVALID_ARGUMENT", "chat.template_kwargs_json"),
        (chat(template_kwargs_json="[" * 100_000), "INVALID_ARGUMENT", "chat.template_kwargs_json"),
        (
            chat(continue_final_message=True, add_generation_prompt=True),
            "INVALID_ARGUMENT",
            "chat.continue_final_message",
        ),
        (
            chat(ChatMessage(role="user", content_parts=[{"image_url": "data:,"}])),
            "UNIMPLEMENTED",
            "chat.messages[0].content_parts[0].image_url",
        ),
        (
            chat(ChatMessage(role="assistant", tool_calls=[{"name": "f", "arguments_json": DEEP}])),
            "INVALID_ARGUMENT",
            "chat.messages[0].tool_calls[0].arguments_json",
        ),
        (
            chat(template_kwargs_json=DEEP),
            "INVALID_ARGUMENT",
            "chat.template_kwargs_json",
        ),
        (
            chat(tools=[{"name": "f", "parameters_json": '{"a":' + "[" * 900 + "]" * 900 + "}"}]),
            "INVALID_ARGUMENT",
            "chat.tools[0].parameters_json",
        ),
        (chat(tool_choice="required"), "INVALID_ARGUMENT", "chat.tool_choice"),
        (chat(tools=[WEATHER], tool_choice="get_time"), "INVALID_ARGUMENT", "chat.tool_choice"),
        (chat(chat_template="{{ 1 }}"), "INVALID_ARGUMENT", "chat.chat_template"),
        (Request(text="a", stop_strings=["x"] * 17), "INVALID_ARGUMENT", "stop_strings"),
        (Request(text="a", stop_strings=["x", ""]), "INVALID_ARGUMENT", "stop_strings[1]"),
        (Request(text="a", stop_strings=["é" * 513]), "INVALID_ARGUMENT", "stop_strings[0]"),
        (Request(text="a", request_id="x" * 257), "INVALID_ARGUMENT", "request_id"),
        (Request(text="a", sampling={"num_samples": 0}), "INVALID_ARGUMENT", "sampling.num_samples"),
        (Request(text="a", sampling={"num_samples": 129}), "INVALID_ARGUMENT", "sampling.num_samples"),
        (Request(text="a", bad_words=["b", " "]), "INVALID_ARGUMENT", "bad_words[1]"),
        (Request(text="a", bad_words=["b" * 257]), "INVALID_ARGUMENT", "bad_words[0]"),
        (Request(text="a", bad_words=["qx" * 40]), "INVALID_ARGUMENT", "bad_words[0]"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named_and_the_next_one_is_served(
    service: Service, request_: Request, code: str, field: str
) -> None:
    error = await refusal(service, request_)

    assert (error.code.name, error.field) == (code, field)
    assert text_of(await generate(service, Request(text="Hello"))) == TEXT


async def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(service: Service) -> None:
    error = await refusal(service, Request(token_ids={"ids": [5] * 512}))

    assert "512 tokens" in error.message
    assert "511" in error.message


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        ({"max_tokens": 3}, [8, 9, 10]),
        ({"max_tokens": 3, "keep_first": True}, [5, 6, 7]),
        ({"max_tokens": 6}, [5, 6, 7, 8, 9, 10]),
        ({"max_tokens": 9}, [5, 6, 7, 8, 9, 10]),
    ],
)
async def test_a_prompt_is_shortened_on_request(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer, truncation: Any, kept: list[int]
) -> None:
    request = Request(
        token_ids={"ids": range(5, 11)}, truncation=truncation, return_prompt_text=True, return_token_ids=True
    )
    first, *_ = await generate(service, request)

    assert list(engine.requests[-1].prompt_token_ids) == list(first.prompt_token_ids) == kept
    assert first.prompt_text == tokenizer.decode(kept, False)


@pytest.mark.parametrize(("max_tokens", "kept"), [(100, 412), (None, 511)])
async def test_a_prompt_is_shortened_to_what_leaves_room_for_the_answer(
    service: Service, engine: FakeEngine, max_tokens: int | None, kept: int
) -> None:
    request = Request(text="word " * 20_000, stop={"max_tokens": max_tokens}, truncation={})
    await generate(service, request)

    assert len(engine.requests[-1].prompt_token_ids) == kept


async def test_something_of_a_prompt_must_be_kept(service: Service) -> None:
    error = await refusal(service, Request(text="Hello", truncation={"max_tokens": 0}))

    assert error.field == "truncation.max_tokens"


async def test_an_unknown_model_is_not_found(service: Service) -> None:
    error = await refusal(service, Request(text="a", model="gpt-5"))

    assert error.code is grpc.StatusCode.NOT_FOUND
    assert "tiny" in error.message
    assert error.details


async def test_nul_characters_are_text(service: Service, engine: FakeEngine, tokenizer: Tokenizer) -> None:
    await generate(service, chat(ChatMessage(role="user", content="a\0b")))

    assert "a\0b" in tokenizer.decode(engine.requests[0].prompt_token_ids)


async def test_the_engines_errors_come_through_with_the_callers_field(
    service: Service, engine: FakeEngine
) -> None:
    engine.refuse = unimplemented("sampling.typical_p")
    error = await refusal(service, Request(text="a"))
    assert (error.code, error.field) == (grpc.StatusCode.UNIMPLEMENTED, "sampling.typical_p")

    engine.refuse = invalid_argument("prompt_token_ids[3]", "is wrong")
    error = await refusal(service, chat())
    assert (error.message, error.field) == ("chat.messages[3]: is wrong", "chat.messages[3]")


@pytest.mark.parametrize("tokens_per_step", [1, 5])
async def test_a_stop_token_that_spells_text_is_none_of_the_output(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer, tokens_per_step: int
) -> None:
    engine.tokens_per_step = tokens_per_step
    token_ids = tokenizer.encode(TEXT).ids
    stop = next(index for index in range(13, 50) if index % 5 and token_ids[index] not in token_ids[:index])
    engine.info.eos_token_ids[:] = [token_ids[stop]]
    responses = await generate(service, Request(text="Hello"))

    assert text_of(responses) == tokenizer.decode(token_ids[:stop])
    assert responses[-1].usage.completion_tokens == stop + 1


@pytest.mark.parametrize("tokens_per_step", [1, 5])
async def test_logprobs_come_with_the_text_and_bytes_of_their_tokens(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer, tokens_per_step: int
) -> None:
    engine.tokens_per_step = tokens_per_step
    text = "The sky, naïve 🙂."
    engine.reply = saying(tokenizer, text)
    responses = await generate(service, Request(text="Hello", logprobs={"num_logprobs": 2}))

    token_ids = tokenizer.encode(text).ids
    assert text_of(responses) == text
    assert b"".join(token for response in responses for token in response.token_bytes) == text.encode()
    assert [x for response in responses for x in response.logprobs.token_logprobs] == [
        -token / 8 for token in token_ids
    ]
    assert {response.logprobs.num_top for response in responses if response.token_bytes} == {2}
    assert all(not response.token_bytes or response.text_delta for response in responses)
    tops = [token for response in responses for token in response.top_token_bytes]
    assert tops == [b"<|endoftext|>", b"<|im_start|>"] * len(token_ids)
    assert not any(response.token_ids for response in responses)


async def test_logprobs_end_with_the_token_that_completes_a_stop_string(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.tokens_per_step = 50
    request = Request(
        text="Hello", stop_strings=["capital"], logprobs={"num_logprobs": 0}, return_token_ids=True
    )
    responses = await generate(service, request)
    token_ids = [token for response in responses for token in response.token_ids]
    assert [x for response in responses for x in response.logprobs.token_ranks] == [t + 1 for t in token_ids]
    assert b"".join(token for r in responses for token in r.token_bytes).startswith(b"The capital")
    assert text_of(responses) == "The "


async def test_a_stop_string_within_the_least_tokens_does_not_count(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    text = "blue sky, blue sea, blue lake"
    engine.reply = saying(tokenizer, text)
    least = len(tokenizer.encode("blue sky,").ids)
    responses = await generate(
        service, Request(text="Hello", stop_strings=["blue"], stop={"min_tokens": least})
    )
    assert text_of(responses) == "blue sky, "
    assert responses[-1].stop_string == "blue"
    assert engine.requests[-1].stop.min_tokens == least


async def test_bad_words_are_sent_in_the_tokens_that_they_are_encoded_as(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    sampling = generation_pb2.SamplingParams(bad_words=[generation_pb2.TokenIds(ids=[7, 8])])
    await generate(service, Request(text="Hello", bad_words=["sky", " blue"], sampling=sampling))
    sent = [list(word.ids) for word in engine.requests[-1].sampling.bad_words]
    expected = [tokenizer.encode(text).ids for text in ("sky", " sky", "blue", " blue")]
    assert sent == [[7, 8], *expected]
