"""Several processes of gateway and tokenizer service behind one port each."""

from __future__ import annotations

import contextlib
import json
import signal

import httpx
import psutil
import pytest

from tests.e2e.questions import MODEL
from tests.e2e.stack import Stack, free_ports, running, serving
from tests.patience import eventually

BODY = {"model": MODEL, "prompt": "Once", "max_tokens": 3}


@pytest.fixture(scope="module")
def stack():
    with serving("--gateway-workers=2", "--tokenizer-workers=2") as stack:
        yield stack
        assert stack.stop(signal.SIGINT) == 0


def workers(stack: Stack, command: str) -> list[psutil.Process]:
    """The stack's processes of one kind."""
    found = []
    for child in psutil.Process(stack.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if command in child.cmdline():
                found.append(child)
    return found


def ask(stack: Stack, **fields: object) -> httpx.Response:
    """A completion over a connection of its own."""
    return httpx.post(f"{stack.url}/completions", json={**BODY, **fields}, timeout=30)


def test_all_workers_take_connections(stack):
    gateways = workers(stack, "gateway")
    assert len(gateways) == len(workers(stack, "tokenizer")) == 2
    with contextlib.ExitStack() as connections:
        for _ in range(40):
            http = connections.enter_context(httpx.Client(timeout=30))
            assert http.post(f"{stack.url}/completions", json=BODY).status_code == 200
        taken = [
            sum(
                connection.laddr.port == stack.gateway_port and connection.status == psutil.CONN_ESTABLISHED
                for connection in gateway.net_connections("tcp")
            )
            for gateway in gateways
        ]
    assert sum(taken) == 40
    assert all(taken)


def each_gateway_has_its_own(stack: Stack) -> bool:
    """Whether every process of the tokenizer service has a socket that listens, and one gateway's."""
    return all(
        sum("-tokenizer-" in str(each.laddr) for each in tokenizer.net_connections("unix")) == 2
        for tokenizer in workers(stack, "tokenizer")
    )


def test_each_gateway_has_a_tokenizer_service_of_its_own(stack):
    assert each_gateway_has_its_own(stack)


def test_streams_go_on_at_another_tokenizer_service_when_theirs_is_killed(stack):
    body = {**BODY, "max_tokens": 600, "ignore_eos": True, "temperature": 0, "stream": True}
    num_starts = sum("is ready again" in line for line in stack.lines)
    with contextlib.ExitStack() as connections:
        streams = []
        for _ in range(8):
            http = connections.enter_context(httpx.Client(timeout=30))
            response = connections.enter_context(http.stream("POST", f"{stack.url}/completions", json=body))
            streams.append(response.iter_lines())
        begun = [next(stream) for stream in streams]
        workers(stack, "tokenizer")[0].kill()
        texts = {text_of([first, *stream]) for first, stream in zip(begun, streams, strict=True)}
    assert len(texts) == 1
    assert ask(stack, max_tokens=600, ignore_eos=True, temperature=0).json()["choices"][0]["text"] in texts
    stack.wait_for("is ready again", num_starts + 1)
    eventually(lambda: each_gateway_has_its_own(stack))


def text_of(lines: list[str]) -> str:
    """Of a stream's events; each of them is there."""
    *events, done = [line.removeprefix("data: ") for line in lines if line]
    assert done == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


def test_a_worker_that_dies_is_replaced_while_the_others_serve(stack):
    num_starts = sum("is ready again" in line for line in stack.lines)
    first, _ = workers(stack, "gateway")
    first.kill()
    eventually(lambda: len(workers(stack, "gateway")) == 2 and first not in workers(stack, "gateway"))
    stack.wait_for("is ready again", num_starts + 1)
    assert {ask(stack).status_code for _ in range(10)} == {200}


@pytest.mark.parametrize("command", ["gateway", "tokenizer"])
def test_a_service_alone_runs_workers_too(stack, command):
    port = {"gateway": stack.tokenizer_port, "tokenizer": stack.engine_port}[command]
    behind = {"gateway": "--tokenizer", "tokenizer": "--engine"}[command]
    (own,) = free_ports(1)
    with running(command, f"{behind}=127.0.0.1:{port}", f"--port={own}", "--workers=2") as alone:
        alone.wait_for(f"2 workers are ready on port {own}")
        assert alone.stop(signal.SIGTERM) == 0
