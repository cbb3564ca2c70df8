"""This engine: a real `tokenwire engine` process, asked over one session.

Arguments: a checkpoint directory, then options of `tokenwire engine`.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from queue import SimpleQueue
from typing import Any

import grpc

from benchmarks.peers.commands import answer_commands
from benchmarks.ports import free_port
from tokenwire.v1 import engine_pb2, engine_pb2_grpc, generation_pb2


def main() -> None:
    port = free_port()
    command = [sys.executable, "-m", "tokenwire_services.launcher", "engine", sys.argv[1]]
    engine = subprocess.Popen([*command, "--port", str(port), *sys.argv[2:]], stdout=sys.stderr)
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    stub = engine_pb2_grpc.EngineStub(channel)
    wait_until_served(stub, engine)

    def run(prompts: list[list[int]], output_tokens: int) -> dict[str, Any]:
        """Generate greedily for the prompts; seconds and tokens."""
        begin = time.perf_counter()
        tokens, first = generate(stub, prompts, output_tokens)
        return {
            "seconds": time.perf_counter() - begin,
            "first_token_seconds": first - begin,
            "tokens": tokens,
        }

    try:
        answer_commands({"software": f"tokenwire {version('tokenwire')}"}, run)
    finally:
        engine.terminate()
        engine.wait(timeout=30)


def wait_until_served(stub: engine_pb2_grpc.EngineStub, engine: subprocess.Popen[bytes]) -> None:
    """Return once the engine answers; raise RuntimeError when its process ends before."""
    while True:
        try:
            stub.GetModel(engine_pb2.GetModelRequest(), wait_for_ready=True, timeout=1)
        except grpc.RpcError:
            if engine.poll() is not None:
                raise RuntimeError(f"the engine ended with code {engine.returncode}") from None
            time.sleep(0.1)
        else:
            return


def generate(
    stub: engine_pb2_grpc.EngineStub, prompts: list[list[int]], output_tokens: int
) -> tuple[list[list[int]], float]:
    """All prompts at once over one session: the tokens of each, and when the last one's first token came."""
    commands: SimpleQueue[engine_pb2.SessionRequest | None] = SimpleQueue()
    commands.put(engine_pb2.SessionRequest(open=engine_pb2.SessionRequest.Open(session_id=str(uuid.uuid4()))))
    for slot, prompt in enumerate(prompts):
        request = engine_pb2.GenerateRequest(
            prompt_token_ids=prompt,
            sampling=generation_pb2.SamplingParams(temperature=0.0),
            stop=generation_pb2.StopConditions(max_tokens=output_tokens, ignore_eos=True),
        )
        commands.put(
            engine_pb2.SessionRequest(submit=engine_pb2.SessionRequest.Submit(slot=slot, request=request))
        )

    def requests() -> Iterator[engine_pb2.SessionRequest]:
        while (command := commands.get()) is not None:
            yield command

    tokens: list[list[int]] = [[] for _ in prompts]
    left = len(prompts)
    first = 0.0
    for response in stub.Session(requests()):
        for slot, token in zip(response.slots, response.token_ids, strict=True):
            tokens[slot].append(token)
        if not first and all(tokens):
            first = time.perf_counter()
        left -= len(response.finished)
        for event in response.finished:
            if event.reason == generation_pb2.FINISH_REASON_ERROR:
                raise RuntimeError(event.error.message)
        if left == 0:
            commands.put(None)
    return tokens, first


if __name__ == "__main__":
    main()
