"""Several samples of one prompt, and what is said of the prompt."""

from __future__ import annotations

from tokenizers import Tokenizer

from tests.patience import until
from tests.services.tokenizer.client import (
    HELLO,
    LENGTH,
    STOP,
    Request,
    chat,
    generate,
    open_session,
    texts_of,
)
from tests.services.tokenizer.conftest import TEXT, Service, said_as_sample, saying
from tests.services.tokenizer.fake_engine import FakeEngine


async def test_every_sample_has_its_own_text_and_end(service: Service, tokenizer: Tokenizer) -> None:
    responses = await generate(service, Request(text="Hello", sampling={"num_samples": 3}))

    assert texts_of(responses) == {sample: said_as_sample(tokenizer, sample) for sample in range(3)}
    ends = {response.sample_index: response for response in responses if response.finish_reason}
    assert {sample: end.finish_reason for sample, end in ends.items()} == {0: STOP, 1: STOP, 2: STOP}
    assert [response.HasField("usage") for response in responses] == [False] * (len(responses) - 1) + [True]
    num_tokens = len(tokenizer.encode(TEXT).ids) + 1
    assert responses[-1].usage.completion_tokens == 3 * num_tokens - 3
    assert responses[-1].usage.prompt_tokens == len(tokenizer.encode("Hello").ids)


async def test_a_stop_string_ends_the_samples_that_say_it(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    first = tokenizer.decode(tokenizer.encode(TEXT).ids[:1])
    request = Request(text="Hello", sampling={"num_samples": 2}, stop_strings=[first], stop={"max_tokens": 4})
    responses = await generate(service, request)

    assert texts_of(responses)[0] == ""
    assert texts_of(responses)[1] == tokenizer.decode(tokenizer.encode(TEXT).ids[1:5])
    ends = {response.sample_index: response.finish_reason for response in responses if response.finish_reason}
    assert ends == {0: STOP, 1: LENGTH}


async def test_when_all_samples_have_said_the_stop_string_the_engine_is_told(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.reply = saying(tokenizer, TEXT * 50)
    request = Request(text="Hello", sampling={"num_samples": 4}, stop_strings=["sunny"])
    responses = await generate(service, request)

    assert all(text.endswith("is ") for text in texts_of(responses).values())
    await until(lambda: engine.cancelled and not engine.live)


async def test_an_engine_that_dies_repeats_nothing(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    call = service.stub.Generate(
        Request(
            text="Hello", sampling={"num_samples": 2}, logprobs={"num_logprobs": 0}, return_token_ids=True
        )
    )
    responses = []
    async for response in call:
        responses.append(response)
        if len(responses) == 20:
            await engine.stop()
            await engine.start()

    assert len(engine.requests) == 2
    assert not engine.requests[1].resumed_token_ids
    assert engine.requests[1].sampling.seed == engine.requests[0].sampling.seed
    ids = tokenizer.encode(TEXT).ids
    for sample in range(2):
        mine = [response for response in responses if response.sample_index == sample]
        assert [t for response in mine for t in response.token_ids][:-1] == ids[sample:]
        logprobs = [logprob for response in mine for logprob in response.logprobs.token_logprobs]
        assert logprobs == [-token / 8 for token in ids[sample:]]


async def test_samples_come_with_their_numbers_in_sessions(service: Service, tokenizer: Tokenizer) -> None:
    peer = await open_session(service)
    await peer.submit(5, Request(text="Hello", sampling={"num_samples": 2}))
    await peer.submit(6, Request(text="Hello"))
    ends = []
    while sum(end.HasField("usage") for end in ends) < 2:
        ends += (await peer.read()).finished

    responses = [detail.response for message in peer.messages for detail in message.details]
    assert texts_of(responses) == {0: TEXT, 1: said_as_sample(tokenizer, 1)}
    assert peer.text(6) == TEXT
    assert sorted((end.slot, end.sample_index) for end in ends) == [(5, 0), (5, 1), (6, 0)]
    await peer.submit(5, Request(text="Hello"))
    await peer.finish(1)


async def test_the_prompt_is_returned_as_text(service: Service, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The sky").ids
    for request, text in [
        (Request(text="The sky"), "The sky"),
        (Request(token_ids={"ids": ids}), "The sky"),
        (chat(HELLO), "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
    ]:
        request.return_prompt_text = True
        request.sampling.num_samples = 2
        responses = await generate(service, request)
        assert [response.prompt_text for response in responses if response.prompt_text] == [text]
        assert responses[0].prompt_text


async def test_the_prompts_logprobs_come_first_with_the_bytes_of_its_tokens(
    service: Service, tokenizer: Tokenizer
) -> None:
    request = Request(text="The sky is", logprobs={"num_prompt_logprobs": 2}, stop={"max_tokens": 2})
    first, *others = await generate(service, request)

    ids = tokenizer.encode("The sky is").ids
    assert list(first.prompt_token_ids) == ids
    assert b"".join(first.prompt_token_bytes) == b"The sky is"
    assert list(first.prompt_logprobs.token_logprobs) == [-token / 8 for token in ids[1:]]
    assert list(first.prompt_logprobs.top_token_ids) == [0, 1] * (len(ids) - 1)
    assert list(first.prompt_top_token_bytes) == [b"<|endoftext|>", b"<|im_start|>"] * (len(ids) - 1)
    assert not any(response.prompt_token_ids for response in others)
