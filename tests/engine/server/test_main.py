"""The engine as a process, with the real runner and the demo model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.engine.running import handed_back
from tests.patience import eventually
from tokenwire.v1 import engine_pb2_grpc
from tokenwire.v1.engine_pb2 import (
    GenerateRequest,
    GenerateResponse,
    GetLoadRequest,
    GetModelRequest,
    GetTokenizerFilesRequest,
)
from tokenwire.v1.generation_pb2 import FINISH_REASON_LENGTH, SamplingParams, StopConditions

PROGRAM = """
import sys
{prelude}
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.server.main import run
sys.exit(run(EngineConfig(**{options!r}, status_fd={status_fd})))
"""


LOSE_THE_DEVICE = """
import os, torch
from tokenwire_engine.runner.local import LocalRunner
forward = LocalRunner._forward
def fail_or_forward(self, plan):
    if os.path.exists({path!r}):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")
    return forward(self, plan)
LocalRunner._forward = fail_or_forward
"""
"""Computing fails, as it does on a card that is gone, from when a file exists."""


class Process:
    """An engine process, and the status lines that it writes."""

    def __init__(self, prelude: str = "", **options: object) -> None:
        """`prelude` is Python that it runs first."""
        reading, writing = os.pipe()
        program = PROGRAM.format(
            options={"port": 0, "device": "cpu"} | options, status_fd=writing, prelude=prelude
        )
        self.child = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=[writing],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        os.close(writing)
        self.status: IO[str] = os.fdopen(reading)
        self.phases: list[str] = []

    def until_ready(self) -> int:
        """The port that it listens on, once it serves."""
        for line in self.status:
            status = json.loads(line)
            self.phases.append(status["phase"])
            if status["phase"] == "ready":
                return int(status["port"])
        raise AssertionError(f"the engine ended: {self.end()}")

    def end(self) -> tuple[int, str]:
        """Its exit status and what it wrote to stderr, once it has ended."""
        _, errors = self.child.communicate(timeout=30)
        return self.child.returncode, errors

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.communicate()
        self.status.close()


StartProcess = Callable[..., Process]


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    processes: list[Process] = []

    def start(**options: object) -> Process:
        processes.append(Process(**options))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def generate(
    stub: engine_pb2_grpc.EngineStub, max_tokens: int, **sampling: object
) -> tuple[list[int], GenerateResponse]:
    """All tokens, and the last message."""
    request = GenerateRequest(
        prompt_token_ids=[5, 6, 7, 8],
        sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
        stop=StopConditions(max_tokens=max_tokens, ignore_eos=True),
    )
    tokens: list[int] = []
    for response in stub.Generate(request):
        tokens += response.token_ids
    return tokens, response


def test_the_demo_model_is_served_from_start_to_sigterm(start_process: StartProcess) -> None:
    process = start_process()
    port = process.until_ready()
    assert "loading weights" in process.phases
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = engine_pb2_grpc.EngineStub(channel)
        model = stub.GetModel(GetModelRequest())
        assert list(model.served_names) == ["tokenwire-demo"]
        names = {piece.name for piece in stub.GetTokenizerFiles(GetTokenizerFilesRequest())}
        assert {"tokenizer.json", "tokenizer_config.json", "config.json"} <= names

        greedy, last = generate(stub, 20, temperature=0.0)
        assert len(greedy) == 20
        assert max(greedy) < model.vocab_size
        assert last.finish_reason == FINISH_REASON_LENGTH
        assert generate(stub, 20, temperature=0.0)[0] == greedy
        seeded = [generate(stub, 20, seed=7)[0] for _ in range(2)]
        assert seeded[0] == seeded[1]
        load = stub.GetLoad(GetLoadRequest())
        assert load.free_kv_blocks == load.total_kv_blocks

    process.child.send_signal(signal.SIGTERM)
    assert process.end() == (0, "")


def test_sigterm_lets_requests_go_on_until_they_end(start_process: StartProcess) -> None:
    process = start_process(drain_timeout_s=60.0)
    with grpc.insecure_channel(f"127.0.0.1:{process.until_ready()}") as channel:
        stub = engine_pb2_grpc.EngineStub(channel)
        undisturbed, _ = generate(stub, 300, temperature=0.0)
        request = GenerateRequest(
            prompt_token_ids=[5, 6, 7, 8],
            sampling=SamplingParams(temperature=0.0),
            stop=StopConditions(max_tokens=300, ignore_eos=True),
        )
        call = stub.Generate(request)
        tokens = list(next(call).token_ids)
        process.child.send_signal(signal.SIGTERM)
        for response in call:
            tokens += response.token_ids
        assert tokens == undisturbed
    assert process.end() == (0, "")


@pytest.mark.parametrize(("drain_timeout_s", "signals"), [(0.0, 1), (60.0, 2)])
def test_what_sigterm_leaves_is_handed_back_for_another_engine_to_continue(
    start_process: StartProcess, drain_timeout_s: float, signals: int
) -> None:
    # Of a few tokens, so that hardly any draw hinges on the last bits of what is computed in other batches.
    sampling = SamplingParams(top_k=4)
    request = GenerateRequest(
        prompt_token_ids=[5, 6, 7, 8],
        sampling=sampling,
        stop=StopConditions(max_tokens=900, ignore_eos=True),
    )
    process = start_process(drain_timeout_s=drain_timeout_s)
    tokens: list[int] = []
    with grpc.insecure_channel(f"127.0.0.1:{process.until_ready()}") as channel:
        stub = engine_pb2_grpc.EngineStub(channel)
        call = stub.Generate(request)
        tokens += next(call).token_ids
        process.child.send_signal(signal.SIGTERM)
        if signals == 2:
            eventually(lambda: stub.GetLoad(GetLoadRequest()).draining)  # else both may be taken for one
            process.child.send_signal(signal.SIGTERM)
        error = None
        try:
            for response in call:
                tokens += response.token_ids
        except grpc.RpcError as caught:
            error = caught
    assert process.end() == (0, "")
    back = handed_back(error)
    assert back.output_tokens == len(tokens) < 900

    # The engine drew the seed; with it, the rest is what it would have been.
    request.sampling.seed = back.seed
    undisturbed: list[int] = []
    with grpc.insecure_channel(f"127.0.0.1:{start_process().until_ready()}") as channel:
        stub = engine_pb2_grpc.EngineStub(channel)
        for response in stub.Generate(request):
            undisturbed += response.token_ids
        request.resumed_token_ids.extend(tokens)
        for response in stub.Generate(request):
            tokens += response.token_ids
    assert tokens == undisturbed


def test_a_device_that_is_gone_turns_health_and_ends_the_process_with_an_error(
    start_process: StartProcess, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    process = start_process(prelude=LOSE_THE_DEVICE.format(path=str(gone)))
    port = process.until_ready()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        stub = engine_pb2_grpc.EngineStub(channel)
        stream = stub.Generate(GenerateRequest(prompt_token_ids=[5], stop=StopConditions(ignore_eos=True)))
        next(stream)
        gone.touch()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
    status, errors = process.end()
    assert status == 1
    said = "tokenwire engine: the device failed: CUDA error: unspecified launch failure"
    assert errors.splitlines()[-1] == said


def test_a_model_that_is_not_there_ends_the_process_with_one_line(start_process: StartProcess) -> None:
    status, errors = start_process(model="/nowhere/at/all").end()
    assert status == 1
    assert len(errors.splitlines()) == 1
    assert "/nowhere/at/all" in errors


def test_a_port_in_use_ends_the_process_with_one_line(start_process: StartProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, errors = start_process(port=port).end()
    assert status == 1
    assert errors == f"tokenwire engine: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_sigterm_while_the_model_loads_ends_the_process(start_process: StartProcess) -> None:
    process = start_process()
    assert process.status.readline()
    process.child.send_signal(signal.SIGTERM)
    assert process.end()[0] == 0
