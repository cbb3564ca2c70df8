"""The synchronous client, at a service whose answers the test chooses."""

import gc

import grpc
import pytest

import tokenwire
from tests.patience import PATIENCE_S
from tokenwire.status import StatusError, invalid_argument, not_found, unavailable, unimplemented
from tokenwire.v1 import generation_pb2, tokenizer_pb2


@pytest.fixture
def client(fake):
    with tokenwire.Client(fake.target, timeout=PATIENCE_S) as client:
        yield client


def test_a_proxy_for_the_web_is_not_asked_for_the_service(answer, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with tokenwire.Client(answer.target, timeout=PATIENCE_S) as client:
        assert client.generate("Say hello").text == "Hello, world"


def test_generate_returns_the_whole_answer(answer, client):
    generation = client.generate("Say hello", max_tokens=5, return_token_ids=True)

    assert generation == tokenwire.Generation(
        text="Hello, world",
        finish_reason="stop",
        usage=tokenwire.Usage(prompt_tokens=3, completion_tokens=3, cached_prompt_tokens=1),
        token_ids=(1, 2, 3),
        prompt_token_ids=(9, 8, 7),
        stop_string="!",
    )
    assert answer.request.text == "Say hello"
    assert answer.request.stop.max_tokens == 5


def test_a_stream_yields_each_delta_and_knows_the_whole(answer, client):
    with client.stream_generate("Say hello") as stream:
        deltas = list(stream)

        assert [delta.text for delta in deltas] == ["Hello,", " world"]
        assert [delta.finish_reason for delta in deltas] == [None, "stop"]
        assert stream.result().text == "Hello, world"


def test_a_prompt_may_be_token_ids(answer, client):
    client.generate([4, 5, 6])

    assert answer.request.token_ids.ids == [4, 5, 6]


def test_options_reach_their_fields(answer, client):
    client.generate(
        "x",
        model="demo",
        temperature=0.0,
        top_k=3,
        top_p=0.5,
        min_p=0.25,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=2.0,
        seed=-7,
        max_tokens=9,
        stop=["a", "b"],
        include_stop_string=True,
        stop_token_ids=[3],
        ignore_eos=True,
        skip_special_tokens=False,
        add_special_tokens=False,
        return_token_ids=True,
        request_id="r",
    )

    assert answer.request == tokenizer_pb2.TokenizerGenerateRequest(
        request_id="r",
        model="demo",
        text="x",
        sampling=generation_pb2.SamplingParams(
            temperature=0.0,
            top_k=3,
            top_p=0.5,
            min_p=0.25,
            repetition_penalty=1.5,
            presence_penalty=-1.0,
            frequency_penalty=2.0,
            seed=-7,
        ),
        stop=generation_pb2.StopConditions(max_tokens=9, stop_token_ids=[3], ignore_eos=True),
        stop_strings=["a", "b"],
        include_stop_string=True,
        skip_special_tokens=False,
        add_special_tokens=False,
        return_token_ids=True,
    )


def test_what_is_left_out_stays_the_servers_choice(answer, client):
    client.generate("x", stop="end")

    # What lets the answer go on at another server, the client chooses.
    for field in ("request_id", "return_token_ids"):
        answer.request.ClearField(field)
    answer.request.sampling.ClearField("seed")
    assert answer.request == tokenizer_pb2.TokenizerGenerateRequest(
        text="x", stop_strings=["end"], sampling=generation_pb2.SamplingParams()
    )


def test_a_chat_carries_messages_and_tools(answer, client):
    call = tokenwire.ToolCall(id="c1", name="weather", arguments='{"city": "Oslo"}')
    client.chat(
        [
            {"role": "user", "content": "Weather in Oslo?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Rain.", "tool_calls": None},
        ],
        tools=[
            {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}, "strict": True}
        ],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning_effort="low",
        template_kwargs={"deep": True},
    )

    chat = answer.request.chat
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert not chat.messages[1].HasField("content")
    assert chat.messages[1].tool_calls[0].arguments_json == '{"city": "Oslo"}'
    assert chat.messages[2].tool_call_id == "c1"
    assert chat.tools[0].parameters_json == '{"type": "object"}'
    assert (chat.tools[0].strict, chat.parallel_tool_calls, chat.reasoning_effort) == (True, False, "low")
    assert chat.HasField("parallel_tool_calls")
    assert (chat.tool_choice, chat.template_kwargs_json) == ("auto", '{"deep": true}')


@pytest.mark.parametrize(
    ("constraint", "kind", "value"),
    [
        ({"json_schema": {"type": "object"}}, "json_schema", '{"type": "object"}'),
        ({"json_schema": "{}"}, "json_schema", "{}"),
        ({"json_object": True}, "json_object", True),
        ({"regex": "a+"}, "regex", "a+"),
        ({"grammar": 'start: "a"'}, "grammar", 'start: "a"'),
    ],
)
def test_a_constraint_is_sent_as_what_it_is(answer, client, constraint, kind, value):
    client.generate("Hello", constraint=constraint)

    sent = answer.request.constraint
    assert (sent.WhichOneof("kind"), getattr(sent, kind)) == (kind, value)


def test_a_choice_is_a_list_and_a_constraint_one_thing(answer, client):
    client.generate("Hello", constraint={"choice": ["yes", "no"]})
    assert list(answer.request.constraint.choice.options) == ["yes", "no"]

    with pytest.raises(tokenwire.InvalidRequestError) as caught:
        client.generate("Hello", constraint={"regex": "a", "choice": ["b"]})
    assert caught.value.field == "constraint"


def test_pieces_of_tool_calls_add_up_and_the_answer_continues_the_conversation(fake, client):
    piece = tokenizer_pb2.ToolCallDelta
    response = tokenizer_pb2.TokenizerGenerateResponse
    fake.deltas = [
        response(
            reasoning_delta="Hm. ", tool_calls=[piece(index=0, id="a", name="add", arguments_delta='{"x"')]
        ),
        response(tool_calls=[piece(index=1, id="b", name="halve"), piece(index=0, arguments_delta=": 1}")]),
        response(finish_reason=generation_pb2.FINISH_REASON_TOOL_CALLS),
    ]

    generation = client.chat([{"role": "user", "content": "?"}])

    calls = (tokenwire.ToolCall("a", "add", '{"x": 1}'), tokenwire.ToolCall("b", "halve", ""))
    assert (generation.tool_calls, generation.finish_reason) == (calls, "tool_calls")
    assert generation.message == {
        "role": "assistant",
        "content": "",
        "tool_calls": calls,
        "reasoning_content": "Hm. ",
    }


def test_tokenize_takes_text_or_a_conversation(fake, client):
    assert client.tokenize("Hello", add_special_tokens=False) == [5, 6, 7]
    assert (fake.request.text, fake.request.add_special_tokens) == ("Hello", False)

    client.tokenize([{"role": "user", "content": "Hello"}])
    assert fake.request.chat.messages[0].content == "Hello"


def test_detokenize_gives_text(fake, client):
    assert client.detokenize([5, 6], skip_special_tokens=False) == "five six"
    assert fake.request.token_ids == [5, 6]


def test_render_chat_gives_the_prompt(fake, client):
    assert client.render_chat([{"role": "user", "content": "Hello"}], model="demo") == "<user>Hello"
    assert fake.request.model == "demo"


def test_models_lists_what_is_served(fake, client):
    assert client.models() == [tokenwire.ModelCard("demo", 1024, 17, True, "demo")]


def test_closing_a_stream_cancels_the_call(answer, client):
    answer.hold = True
    with client.stream_generate("x") as stream:
        assert next(stream).text == "Hello,"

    assert answer.cancelled.wait(PATIENCE_S)
    assert list(stream) == []
    with pytest.raises(tokenwire.CancelledError):
        stream.result()


def test_dropping_a_stream_cancels_the_call(answer, client):
    answer.hold = True
    stream = client.stream_generate("x")
    next(stream)
    del stream
    gc.collect()

    assert answer.cancelled.wait(PATIENCE_S)


def test_an_invalid_value_names_its_field(fake, client):
    fake.error = invalid_argument("sampling.top_p", "is 2; expected more than 0, at most 1")
    with pytest.raises(tokenwire.InvalidRequestError, match="expected more than 0") as caught:
        client.generate("x", top_p=2.0)

    assert caught.value.field == "sampling.top_p"
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (not_found("model", "gpt", "no model gpt"), tokenwire.NotFoundError),
        (unimplemented("constraint"), tokenwire.UnsupportedError),
        (unavailable("no engine", 2.5), tokenwire.UnavailableError),
        (StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full"), tokenwire.OverloadedError),
        (StatusError(grpc.StatusCode.CANCELLED, "gone"), tokenwire.CancelledError),
        (StatusError(grpc.StatusCode.INTERNAL, "bug"), tokenwire.InternalError),
        (StatusError(grpc.StatusCode.UNKNOWN, "bug"), tokenwire.InternalError),
    ],
    ids=lambda value: value.code.name if isinstance(value, StatusError) else value.__name__,
)
def test_each_status_is_an_exception_of_its_own(fake, client, status, kind):
    fake.error = status
    with pytest.raises(kind) as from_stream:
        client.generate("x")
    with pytest.raises(kind) as from_call:
        client.models()

    assert from_stream.type is from_call.type is kind
    assert str(from_call.value) == status.message
    assert from_call.value.retry_after_s == status.retry_after_s


def test_a_deadline_ends_the_call(answer, client):
    answer.hold = True
    with pytest.raises(tokenwire.DeadlineExceededError):
        client.generate("x", timeout=0.2)
    assert answer.cancelled.wait(PATIENCE_S)


def test_a_server_that_is_not_there_is_unavailable(unused_port):
    with tokenwire.Client(f"127.0.0.1:{unused_port}") as client, pytest.raises(tokenwire.UnavailableError):
        client.models()


def test_an_unknown_option_is_a_type_error(client):
    with pytest.raises(TypeError, match="max_token"):
        client.generate("x", max_token=3)


@pytest.mark.parametrize(
    ("options", "field"), [({"top_k": -1}, "sampling.top_k"), ({"max_tokens": "many"}, "stop.max_tokens")]
)
def test_a_value_that_fits_no_field_is_refused_before_it_is_sent(client, options, field):
    with pytest.raises(tokenwire.InvalidRequestError) as caught:
        client.generate("x", **options)
    assert caught.value.field == field
