"""The gateway as a process: its start, its end, and what it loads."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.patience import PATIENCE_S, until
from tests.ports import free_ports
from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer

RUN = """
import json, sys
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.gateway.main import run
sys.exit(run(GatewayConfig(**json.loads(sys.argv[1]))))
"""


def start(**options: object) -> subprocess.Popen[str]:
    """A gateway that reports its progress on standard output, where the web is behind a proxy."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps({"status_fd": 1, **options})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "http_proxy": "http://127.0.0.1:1"},
    )


def progress(process: subprocess.Popen[str]) -> dict[str, object]:
    """The next line of progress."""
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("{"):
        assert line, "the gateway ended"
    report: dict[str, object] = json.loads(line)
    return report


@pytest.fixture
async def tokenizer() -> AsyncIterator[FakeTokenizer]:
    """A tokenizer service of the test's own."""
    async with FakeTokenizer().serving() as tokenizer:
        yield tokenizer


@pytest.fixture
async def process(tokenizer: FakeTokenizer) -> AsyncIterator[subprocess.Popen[str]]:
    """A running gateway."""
    process = start(port=0, tokenizer=f"127.0.0.1:{tokenizer.port}")
    yield process
    process.kill()
    process.communicate()


async def test_it_says_when_it_is_ready_and_stops_on_a_signal(process: subprocess.Popen[str]) -> None:
    waiting = await asyncio.to_thread(progress, process)
    assert "waiting" in str(waiting["phase"])
    ready = await asyncio.to_thread(progress, process)
    assert ready["phase"] == "ready"
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"http://127.0.0.1:{ready['port']}/health")).status_code == 200
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0


async def test_open_streams_hear_that_it_stops(
    process: subprocess.Popen[str], tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: Answer(["x"], endless=True)
    tokenizer.step_s = 0.01
    await asyncio.to_thread(progress, process)
    port = (await asyncio.to_thread(progress, process))["port"]
    body = {"model": MODEL, "prompt": "hi", "stream": True}
    async with httpx.AsyncClient() as http:
        asking = asyncio.create_task(http.post(f"http://127.0.0.1:{port}/v1/completions", json=body))
        await until(lambda: len(tokenizer.live) == 1)
        process.terminate()
        last = (await asking).text.rstrip().rpartition("\n\n")[2]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the gateway is shutting down"
    assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0
    await until(lambda: len(tokenizer.cancelled) == 1)


async def test_a_client_that_does_not_read_cannot_hold_it_up(
    process: subprocess.Popen[str], tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: Answer(["x" * 65536], endless=True)
    await asyncio.to_thread(progress, process)
    port = (await asyncio.to_thread(progress, process))["port"]
    body = json.dumps({"model": MODEL, "prompt": "hi", "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: any(live.sent > 200 for live in tokenizer.live.values()))
        process.terminate()
        _, errors = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(port=port)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == f"tokenwire gateway: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_it_loads_nothing_that_belongs_to_models() -> None:
    code = (
        "import sys, tokenwire_services.gateway.main\n"
        "print(*{name.partition('.')[0] for name in sys.modules}"
        " & {'torch', 'tokenizers', 'numpy', 'jinja2', 'transformers', 'tokenwire_engine'})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


async def test_its_metrics_are_at_a_port_of_their_own_where_one_is_given(tokenizer: FakeTokenizer) -> None:
    (port,) = free_ports(1)
    first = start(port=0, metrics_port=port, tokenizer=f"127.0.0.1:{tokenizer.port}")
    try:
        while (report := await asyncio.to_thread(progress, first))["phase"] != "ready":
            pass
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"http://127.0.0.1:{report['port']}/version")).status_code == 200
            text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        assert 'tokenwire_http_requests_total{endpoint="/version",status="200"} 1.0' in text
        second = start(port=0, metrics_port=port, tokenizer=f"127.0.0.1:{tokenizer.port}")
        _, said = await asyncio.to_thread(second.communicate, timeout=PATIENCE_S)
        assert second.returncode == 1
        assert (
            said
            == f"tokenwire gateway: cannot listen on 127.0.0.1:{port} for metrics: Address already in use\n"
        )
    finally:
        first.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait, PATIENCE_S) == 0
