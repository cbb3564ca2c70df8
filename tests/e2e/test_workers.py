"""Several processes of gateway and tokenizer service behind one port each."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter

import httpx
import psutil
import pytest

from tests.e2e.stack import Stack, eventually, free_ports, running, serving

BODY = {"model": "tokenwire-demo", "prompt": "Once", "max_tokens": 3}


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


def ask(stack: Stack) -> int:
    """The status of a completion over a connection of its own."""
    return httpx.post(f"{stack.url}/completions", json=BODY, timeout=30).status_code


def test_all_workers_take_connections(stack):
    assert len(workers(stack, "gateway")) == len(workers(stack, "tokenizer")) == 2
    served = Counter()
    for _ in range(40):
        assert ask(stack) == 200
        metrics = httpx.get(f"{stack.url.removesuffix('/v1')}/metrics", timeout=30).text
        (start,) = [line for line in metrics.splitlines() if line.startswith("process_start_time_seconds")]
        served[start] += 1
    assert len(served) == 2


def test_a_worker_that_dies_is_replaced_while_the_others_serve(stack):
    first, _ = workers(stack, "gateway")
    first.kill()
    eventually(lambda: len(workers(stack, "gateway")) == 2 and first not in workers(stack, "gateway"))
    stack.wait_for("is ready again")
    assert {ask(stack) for _ in range(10)} == {200}


@pytest.mark.parametrize("command", ["gateway", "tokenizer"])
def test_a_service_alone_runs_workers_too(stack, command):
    port = {"gateway": stack.tokenizer_port, "tokenizer": stack.engine_port}[command]
    behind = {"gateway": "--tokenizer", "tokenizer": "--engine"}[command]
    (own,) = free_ports(1)
    with running(command, f"{behind}=127.0.0.1:{port}", f"--port={own}", "--workers=2") as alone:
        alone.wait_for(f"2 workers are ready on port {own}")
        assert alone.stop(signal.SIGTERM) == 0
