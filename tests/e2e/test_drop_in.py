"""Applications written for OpenAI's API, or for vLLM's server, pointed at the stack."""

import json

import httpx
import pytest

from tests.e2e.conftest import KEY
from tests.e2e.questions import FRANCE, MODEL, OSLO, WEATHER


@pytest.fixture
def http(stack):
    root = stack.url.removesuffix("/v1")
    with httpx.Client(base_url=root, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as http:
        yield http


def rendered(http, **chat):
    """A conversation as the model sees it."""
    return "".join(http.post("/tokenize", json={**chat, "return_token_strs": True}).json()["token_strs"])


def test_a_streamed_tool_loop_sends_back_what_it_put_together(sync_openai):
    """As agents do it: pieces are added up, and what they make goes back with all its nulls and indices."""
    messages = [*OSLO]
    calls, finish_reason = {}, None
    for chunk in sync_openai.chat.completions.create(
        model=MODEL, messages=messages, tools=[WEATHER], temperature=0, stream=True
    ):
        (choice,) = chunk.choices
        finish_reason = choice.finish_reason or finish_reason
        for piece in choice.delta.tool_calls or ():
            if piece.id:
                calls[piece.index] = piece.model_dump()
            else:
                calls[piece.index]["function"]["arguments"] += piece.function.arguments
    assert finish_reason == "tool_calls"
    (call,) = calls.values()
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}

    answer = sync_openai.chat.completions.create(
        model=MODEL,
        messages=[
            *messages,
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": "rain"}]},
        ],
        tools=[WEATHER],
        max_tokens=20,
    )
    assert answer.choices[0].message.content


def test_a_whole_answer_is_sent_back_as_it_was_dumped(sync_openai):
    first = sync_openai.chat.completions.create(model=MODEL, messages=OSLO, tools=[WEATHER], temperature=0)
    message = first.choices[0].message
    messages = [
        *OSLO,
        message.model_dump(),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"},
    ]
    assert sync_openai.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER]).choices


def test_a_call_that_was_cut_off_can_be_sent_back(http):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Os'},
    }
    prompt = rendered(
        http,
        messages=[
            *OSLO,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "the arguments are no JSON"},
        ],
    )
    assert '"arguments": {"city": "Os}' in prompt


def test_the_text_that_ended_an_answer_is_named(sync_openai):
    def ending(**options):
        choice = sync_openai.chat.completions.create(model=MODEL, messages=FRANCE, temperature=0, **options)
        return choice.choices[0].finish_reason, choice.choices[0].model_extra["stop_reason"]

    assert ending() == ("stop", None)
    assert ending(stop=["of France", "Paris"]) == ("stop", "of France")
    (token,) = (
        sync_openai.chat.completions.create(
            model=MODEL, messages=FRANCE, temperature=0, max_tokens=1, extra_body={"return_token_ids": True}
        )
        .choices[0]
        .model_extra["token_ids"]
    )
    assert ending(extra_body={"stop_token_ids": [token]}) == ("stop", token)
    assert ending(max_tokens=2) == ("length", None)


def test_a_continued_message_is_echoed(sync_openai):
    answer = sync_openai.chat.completions.create(
        model=MODEL,
        messages=[*FRANCE, {"role": "assistant", "content": "The capital"}],
        temperature=0,
        extra_body={"continue_final_message": True, "add_generation_prompt": False, "echo": True},
    )
    assert answer.choices[0].message.content == "The capital of France is Paris."


def test_every_chunk_can_count_the_tokens(sync_openai):
    chunks = list(
        sync_openai.chat.completions.create(
            model=MODEL,
            messages=FRANCE,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True, "continuous_usage_stats": True},
        )
    )
    last = chunks[-1].usage
    assert all(chunk.usage.prompt_tokens == last.prompt_tokens for chunk in chunks)
    assert chunks[-2].usage.completion_tokens == last.completion_tokens


@pytest.mark.parametrize(
    ("path", "prompt"),
    [("/v1/chat/completions", {"messages": FRANCE}), ("/v1/completions", {"prompt": "Once"})],
)
def test_a_request_need_name_neither_model_nor_length(http, path, prompt):
    """As vLLM's users write them with curl."""
    answer = http.post(path, json=prompt).json()
    assert (answer["model"], len(answer["choices"])) == (MODEL, 1)


@pytest.mark.parametrize(
    "body",
    [
        # Open WebUI
        {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0.7, "chat_id": "5"},
        # Continue
        {"stream": True, "max_tokens": 20, "stop": ["```"], "top_p": 1, "presence_penalty": 0},
        # LibreChat, Cline and others made for several providers
        {"stream": True, "include_reasoning": True, "user": "64f", "provider": {"order": ["x"]}},
        # llama.cpp's own front end
        {"cache_prompt": True, "samplers": ["top_k"], "dynatemp_range": 0, "timings_per_token": True},
        # vLLM's benchmark
        {"temperature": 0.0, "repetition_penalty": 1.0, "ignore_eos": True, "max_completion_tokens": 8},
        # GuideLLM
        {
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "max_completion_tokens": 8,
            "stop": None,
            "ignore_eos": True,
        },
    ],
    ids=lambda body: next(iter(body)),
)
def test_the_requests_of_other_applications_are_answered(http, body):
    answer = http.post("/v1/chat/completions", json={"model": MODEL, "messages": FRANCE, **body})
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.text
