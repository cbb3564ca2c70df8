"""An engine process and one session with it, as the engine's own benchmarks use them.

The clock is the client's: a token's time is when the message that carries it was received. So every step is
sent by itself.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType

import grpc

from benchmarks.peers.tokenwire import wait_until_served
from benchmarks.ports import free_port
from tokenwire.v1 import engine_admin_pb2, engine_admin_pb2_grpc, engine_pb2, engine_pb2_grpc, generation_pb2


class Engine:
    """A `tokenwire engine` process, ready when it is made, ended by `close` or a `with` block."""

    def __init__(self, model: str, *options: str) -> None:
        port = free_port()
        command = [sys.executable, "-m", "tokenwire_services.launcher", "engine", model, f"--port={port}"]
        command.append("--delivery-interval-ms=0")
        self._process = subprocess.Popen([*command, *options], stdout=sys.stderr)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub: engine_pb2_grpc.EngineStub = engine_pb2_grpc.EngineStub(self._channel)
        wait_until_served(self._stub, self._process)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._channel.close()
        self._process.terminate()
        self._process.wait(timeout=30)

    def model(self) -> engine_pb2.GetModelResponse:
        """What it serves."""
        return self._stub.GetModel(engine_pb2.GetModelRequest())

    def load(self) -> engine_pb2.GetLoadResponse:
        """How busy it is, and what it has counted."""
        return self._stub.GetLoad(engine_pb2.GetLoadRequest())

    def forget_prefixes(self) -> None:
        """Empty the prefix cache."""
        stub = engine_admin_pb2_grpc.EngineAdminStub(self._channel)
        stub.ResetPrefixCache(engine_admin_pb2.ResetPrefixCacheRequest())

    def session(self) -> Session:
        """A new session."""
        return Session(self._stub)


@dataclass(slots=True)
class Stream:
    """One request's output."""

    submitted_s: float
    token_ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    """When each token was received."""
    is_done: bool = False

    @property
    def first_token_s(self) -> float:
        """From submission to the first token."""
        return self.times_s[0] - self.submitted_s


class Session:
    """Requests over one stream. Nothing is received but in `receive` and what calls it."""

    def __init__(self, stub: engine_pb2_grpc.EngineStub) -> None:
        self.streams: list[Stream] = []
        self._commands: SimpleQueue[engine_pb2.SessionRequest | None] = SimpleQueue()
        opening = engine_pb2.SessionRequest.Open(session_id=str(uuid.uuid4()))
        self._commands.put(engine_pb2.SessionRequest(open=opening))
        self._responses = iter(stub.Session(self._requests()))
        next(self._responses)

    def submit(
        self,
        prompt: Sequence[int],
        output_tokens: int,
        constraint: generation_pb2.Constraint | None = None,
    ) -> Stream:
        """Start a greedy request for exactly so many tokens, or fewer where a constraint ends it."""
        request = engine_pb2.GenerateRequest(
            prompt_token_ids=prompt,
            sampling=generation_pb2.SamplingParams(temperature=0.0),
            stop=generation_pb2.StopConditions(max_tokens=output_tokens, ignore_eos=True),
            constraint=constraint,
        )
        submit = engine_pb2.SessionRequest.Submit(slot=len(self.streams), request=request)
        self.streams.append(Stream(time.perf_counter()))
        self._commands.put(engine_pb2.SessionRequest(submit=submit))
        return self.streams[-1]

    def receive(self) -> None:
        """Wait for the next message.

        Raises:
            RuntimeError: when the engine refused or failed a request.
        """
        response = next(self._responses)
        now_s = time.perf_counter()
        for slot, token_id in zip(response.slots, response.token_ids, strict=True):
            self.streams[slot].token_ids.append(token_id)
            self.streams[slot].times_s.append(now_s)
        for event in response.finished:
            if event.reason == generation_pb2.FINISH_REASON_ERROR:
                raise RuntimeError(event.error.message)
            self.streams[event.slot].is_done = True

    def finish(self) -> list[Stream]:
        """Receive until every request has ended, and close the session; all requests in order."""
        while not all(stream.is_done for stream in self.streams):
            self.receive()
        self._commands.put(None)
        return self.streams

    def _requests(self) -> Iterator[engine_pb2.SessionRequest]:
        while (command := self._commands.get()) is not None:
            yield command
