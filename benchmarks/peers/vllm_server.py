"""vLLM's OpenAI server with random weights, to stand beside this gateway where only the cost of text counts.

    with vllm_server.start() as server:
        ...  # http://127.0.0.1:{server.port}/v1, model name "peer"

The API server tokenizes, detokenizes and speaks HTTP; the engine core and its worker, processes of their own,
compute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from benchmarks.contenders import peer_python, vllm_environment
from benchmarks.ports import free_port

CHECKPOINT = Path(__file__).parent.parent.parent / "models" / "demo" / "checkpoint"


@dataclass(slots=True)
class VllmServer:
    """A running server; leaving the context ends all its processes."""

    process: subprocess.Popen[bytes]
    """The API server."""
    port: int
    start_seconds: float = 0.0
    """From the process's creation until it answered."""
    _children: list[psutil.Process] = field(default_factory=list)

    @property
    def api_server(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    @property
    def engine_core(self) -> list[psutil.Process]:
        """The engine core and the workers that it started."""
        return self._children

    def __enter__(self) -> VllmServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server, and whatever of it is left after half a minute."""
        family = [self.api_server, *self._children]
        self.process.terminate()
        _, alive = psutil.wait_procs(family, timeout=30)
        for process in alive:
            process.kill()
        self.process.wait()


def start(
    checkpoint: Path = CHECKPOINT,
    *,
    arguments: tuple[str, ...] = (),
    timeout_s: float = 300.0,
) -> VllmServer:
    """Start the server on a free port and wait until it answers.

    Args:
        checkpoint: its configuration, tokenizer and chat template are used; the weights are random.
        arguments: further ones for `vllm.entrypoints.openai.api_server`.

    Raises:
        FileNotFoundError: vLLM is not set up.
        RuntimeError: the server ended, or did not answer in time.
    """
    port = free_port()
    command = [
        peer_python("vllm"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint),
        "--chat-template", str(checkpoint / "chat_template.jinja"), "--load-format", "dummy",
        "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "peer", "--dtype", "float32",
        "--enforce-eager", "--disable-log-stats", "--disable-uvicorn-access-log",
        *arguments,
    ]  # fmt: skip
    started = time.perf_counter()
    environment = os.environ | vllm_environment(kv_cache_gib=1)
    server = VllmServer(subprocess.Popen(command, env=environment, stdout=sys.stderr), port)
    while not _answers(port):
        if server.process.poll() is not None:
            raise RuntimeError(f"vLLM's server ended with code {server.process.returncode}")
        if time.perf_counter() - started > timeout_s:
            server.process.kill()
            raise RuntimeError(f"vLLM's server does not answer after {timeout_s:g} s")
        time.sleep(0.2)
    server.start_seconds = time.perf_counter() - started
    server._children = server.api_server.children(recursive=True)
    return server


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
