"""Bad input to the stack: a clear answer, and the next request is served."""

import httpx
import openai
import pytest

import tokenwire
from tests.e2e.conftest import KEY
from tests.e2e.questions import MODEL
from tests.e2e.stack import running
from tests.ports import free_ports

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def and_the_next_request_is_served(sync_openai):
    yield
    answer = sync_openai.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2)
    assert answer.usage.completion_tokens >= 1


@pytest.fixture
def http(stack):
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as http:
        yield http


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}]
)
def test_a_wrong_key_or_none_is_401(http, headers):
    http.headers.pop("Authorization")
    reply = http.get("models", headers=headers)
    assert reply.status_code == 401
    assert reply.json()["error"]["message"]


def test_an_unknown_model_is_404(http):
    reply = http.post("chat/completions", json={"model": "gpt-99", "messages": HELLO})
    assert reply.status_code == 404
    assert "gpt-99" in reply.json()["error"]["message"]


def test_an_unknown_path_is_404(http):
    reply = http.get("nothing")
    assert reply.status_code == 404
    assert "error" in reply.json()


def test_too_large_a_body_is_413(http):
    reply = http.post("completions", json={"model": MODEL, "prompt": "x" * 1_100_000})
    assert reply.status_code == 413
    assert "error" in reply.json()


def test_what_is_not_json_is_400(http):
    for body in (b"{", b'{"model": "\xff"}', b""):
        reply = http.post("completions", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400
        assert reply.json()["error"]["message"]


@pytest.mark.parametrize("length", [5_000, 100_000])
def test_a_prompt_longer_than_the_context_is_called_so(sync_openai, length):
    with pytest.raises(openai.BadRequestError) as caught:
        sync_openai.completions.create(model=MODEL, prompt=" a b" * length)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_arguments_with_half_a_character_are_400(http):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"city": "\\ud800"}'}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    reply = http.post("chat/completions", json={"model": MODEL, "messages": messages})
    assert reply.status_code == 400, reply.text
    assert "surrogate" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "emperor", "content": "Hello"}]}, "role"),
        ({"messages": "Hello"}, "messages"),
        ({"n": 0}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "long " * 2000}]}, "context"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_400_and_names_the_field(http, change, field):
    reply = http.post("chat/completions", json={"model": MODEL, "messages": HELLO, **change})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert field in f"{error['param']} {error['message']}"
    assert error["type"] == "invalid_request_error"


def test_the_openai_package_raises_its_own_exceptions(sync_openai):
    with pytest.raises(openai.NotFoundError):
        sync_openai.chat.completions.create(model="gpt-99", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        sync_openai.chat.completions.create(model=MODEL, messages=HELLO, top_p=7)
    assert caught.value.param == "top_p"


def test_the_client_raises_its_own_exceptions(client):
    with pytest.raises(tokenwire.NotFoundError):
        client.generate("Hello", model="gpt-99")
    with pytest.raises(tokenwire.InvalidRequestError) as caught:
        client.generate("Hello", temperature=-1.0)
    assert "temperature" in caught.value.field
    with pytest.raises(tokenwire.InvalidRequestError, match=r"\d+"):
        client.generate([4_000_000_000], max_tokens=1)
    with pytest.raises(tokenwire.InvalidRequestError):
        client.generate([], max_tokens=1)


def test_without_an_engine_requests_are_told_when_to_come_back():
    engine, tokenizer, gateway = free_ports(3)
    with (
        running("tokenizer", f"--engine=127.0.0.1:{engine}", f"--port={tokenizer}") as service,
        running("gateway", f"--tokenizer=127.0.0.1:{tokenizer}", f"--port={gateway}") as door,
    ):
        service.wait_for("listening on")
        door.wait_for("connected to")
        reply = httpx.post(
            f"http://127.0.0.1:{gateway}/v1/chat/completions",
            json={"model": MODEL, "messages": HELLO},
            timeout=30,
        )
        assert reply.status_code == 503
        assert int(reply.headers["Retry-After"]) >= 1
        with (
            tokenwire.Client(f"127.0.0.1:{tokenizer}") as client,
            pytest.raises(tokenwire.UnavailableError) as caught,
        ):
            client.generate("Hello")
        assert caught.value.retry_after_s


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 10**9}, "n"),
        ({"stop": ["x" * 900_000]}, "stop[0]"),
        ({"stop": ["x"] * 100_000}, "stop"),
        ({"logit_bias": {str(token): 1 for token in range(20_000)}}, "logit_bias"),
        ({"chat_template": "{% for a in range(10**9) %}{% endfor %}"}, "chat_template"),
        ({"chat_template_kwargs": {"a": [[[[["b"] * 9]] * 9]] * 9, "messages": []}}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 9 + [1]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 25_000}]}, "messages"),
        ({"messages": HELLO * 20_001}, "messages"),
    ],
)
def test_what_would_cost_much_is_refused_by_name(http, change, field):
    reply = http.post("chat/completions", json={"model": MODEL, "messages": HELLO, **change})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith(field)


def test_nesting_bombs_are_400(http):
    for bomb in (
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"chat_template_kwargs":' + '{"a":' * 500 + "1" + "}" * 501,
    ):
        reply = http.post("chat/completions", content=bomb, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, reply.text
    deep = []
    for _ in range(500):
        deep = [deep]
    for change in {"chat_template_kwargs": {"deep": deep}}, {"documents": [{"deep": deep}]}:
        reply = http.post("chat/completions", json={"model": MODEL, "messages": HELLO, **change})
        assert reply.status_code == 400, reply.text


def test_control_characters_are_text(sync_openai):
    text = "\x00\x01\x1b[2J\ufeff\u202e\U0010ffff"
    answer = sync_openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], stop=["\x00"], max_tokens=2
    )
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_half_a_character_is_not_json(http):
    body = b'{"model": "tokenwire-demo", "messages": [{"role": "user", "content": "\\ud800"}]}'
    reply = http.post("chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")
