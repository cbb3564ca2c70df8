"""The tokenizer as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire_services.tokenizer.config import TokenizerConfig

RUN = """
import sys
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.main import run
sys.exit(run(TokenizerConfig(engines=(sys.argv[1],), port=int(sys.argv[2]), status_fd=int(sys.argv[3]))))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_reports_its_start_and_ends_cleanly_on_a_signal(
    engine: FakeEngine, number: signal.Signals
) -> None:
    reader, writer = os.pipe()
    behind_a_proxy = {**os.environ, "http_proxy": "http://127.0.0.1:1"}  # which is for the web
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, f"127.0.0.1:{engine.port}", "0", str(writer)),
        pass_fds=(writer,),
        env=behind_a_proxy,
    )
    os.close(writer)
    with os.fdopen(reader) as lines:
        phases = [json.loads(await asyncio.to_thread(lines.readline))["phase"] for _ in range(2)]
    process.send_signal(number)

    assert phases == ["waiting for the engine", "ready"]
    async with asyncio.timeout(PATIENCE_S):
        assert await process.wait() == 0


def test_an_address_that_is_taken_ends_it_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = subprocess.run(
            [sys.executable, "-c", RUN, "127.0.0.1:1", port, "2"], capture_output=True, text=True, timeout=60
        )

    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_socket_that_is_another_file_ends_it_with_one_line_and_leaves_the_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    run = RUN.replace("port=", f"session_socket={str(file)!r}, port=")
    process = subprocess.run(
        [sys.executable, "-c", run, "127.0.0.1:1", "0", "2"], capture_output=True, text=True, timeout=60
    )

    assert process.returncode == 1
    assert f"cannot listen on {file}" in process.stderr
    assert "Traceback" not in process.stderr
    assert file.read_text() == "kept"


async def test_an_engine_without_a_tokenizer_json_ends_it_with_one_line(engine: FakeEngine) -> None:
    engine.files = {"spiece.model": b""}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, f"127.0.0.1:{engine.port}", "0", "2", stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        _, errors = await process.communicate()

    assert process.returncode == 1
    assert b"only the tokenizer.json format" in errors
    assert b"Traceback" not in errors


def test_it_loads_neither_torch_nor_an_http_framework_nor_the_engine() -> None:
    code = (
        "import sys, tokenwire_services.tokenizer.main\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not names & {'torch', 'transformers', 'fastapi', 'tokenwire_engine', 'numpy'}, names"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engines": ()}, "--engine is missing"),
        ({"engines": ("a:1", "b:2", "a:1")}, "names an engine twice"),
        ({"engines": ("localhost",)}, "expected host:port"),
        ({"engines": ("localhost:99999",)}, "expected host:port"),
        ({"port": 70000}, "--port is 70000"),
        ({"max_prompt_bytes": 0}, "max_prompt_bytes is 0"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**options)  # type: ignore[arg-type]
