"""An engine that replays a text's tokens at a set rate: what remains is the cost of the token path.

A real process speaking the real protocol (sessions only), with a real checkpoint's tokenizer and no model. A
request's first token comes at once, so that the time to it is what the path to the engine and back takes.

    python -m benchmarks.replay_engine CHECKPOINT --port N --session-socket @NAME --step-ms 20
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from tokenizers import Tokenizer

from tokenwire.duplex.served_call import LibraryCall, ServedCall
from tokenwire.duplex.server import serve_calls
from tokenwire.v1 import engine_pb2, engine_pb2_grpc, generation_pb2

TEXT = (
    "A good server does little for each token, and does it once. It reads what the engine computed, turns "
    "token IDs into text, and hands the text on; it allocates little, copies once, and sleeps when there is "
    "nothing to do. Whoever waits at the other end sees words arrive at an even pace, one after another. "
)

Context = grpc.aio.ServicerContext[Any, Any]
Stream = ServedCall[engine_pb2.SessionRequest, engine_pb2.SessionResponse]


class ReplayEngine(engine_pb2_grpc.EngineServicer):
    """Answers every request of a session with the same tokens: the first at once, then one a step."""

    def __init__(self, checkpoint: Path, step_s: float) -> None:
        self._checkpoint = checkpoint
        self._step_s = step_s
        self._commands_received = 0  # of the one session that there is
        tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self._tokens: list[int] = tokenizer.encode(TEXT, add_special_tokens=False).ids
        self._vocab_size = tokenizer.get_vocab_size()

    def Generate(  # noqa: N802
        self, request: engine_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[engine_pb2.GenerateResponse]:
        raise NotImplementedError("the replaying engine serves sessions only")

    async def GetLoad(  # noqa: N802
        self, request: engine_pb2.GetLoadRequest, context: Context
    ) -> engine_pb2.GetLoadResponse:
        return engine_pb2.GetLoadResponse()

    async def WatchLoad(  # noqa: N802
        self, request: engine_pb2.WatchLoadRequest, context: Context
    ) -> AsyncIterator[engine_pb2.WatchLoadResponse]:
        yield engine_pb2.WatchLoadResponse()

    async def WatchKvEvents(  # noqa: N802
        self, request: engine_pb2.WatchKvEventsRequest, context: Context
    ) -> AsyncIterator[engine_pb2.WatchKvEventsResponse]:
        yield engine_pb2.WatchKvEventsResponse(reset=True)

    async def GetModel(  # noqa: N802
        self, request: engine_pb2.GetModelRequest, context: Context
    ) -> engine_pb2.GetModelResponse:
        return engine_pb2.GetModelResponse(
            served_names=["replay"],
            architecture="Replay",
            max_model_len=8192,
            vocab_size=self._vocab_size,
            instance_id="replay",
            max_running=4096,
        )

    async def GetTokenizerFiles(  # noqa: N802
        self, request: engine_pb2.GetTokenizerFilesRequest, context: Context
    ) -> AsyncIterator[engine_pb2.GetTokenizerFilesResponse]:
        for path in sorted(self._checkpoint.glob("*")):
            if path.suffix in (".json", ".jinja"):
                yield engine_pb2.GetTokenizerFilesResponse(name=path.name, data=path.read_bytes())

    async def Session(  # type: ignore[override]  # noqa: N802
        self, requests: AsyncIterator[engine_pb2.SessionRequest], context: Context
    ) -> None:
        await self.serve_session(LibraryCall(context))

    async def serve_session(self, stream: Stream) -> None:
        """A call of Session, whoever carries it."""
        live: dict[int, list[int]] = {}  # slot: [tokens sent, tokens to send, prompt tokens]
        self._commands_received = 0
        news = asyncio.Event()
        reader = asyncio.create_task(self._read(stream, live, news))
        try:
            opened = engine_pb2.SessionResponse.Opened(grace_period_ms=0)
            await stream.write(engine_pb2.SessionResponse(opened=opened))
            step = 0
            next_step = time.monotonic() + self._step_s
            while not reader.done():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), max(0.0, next_step - time.monotonic()))
                news.clear()
                is_due = time.monotonic() >= next_step
                due = {slot: row for slot, row in live.items() if is_due or not row[0]}
                if due:
                    step += 1
                    await stream.write(self._step(step, due, live))
                if is_due:
                    next_step = max(next_step + self._step_s, time.monotonic())
        finally:
            reader.cancel()

    async def _read(self, stream: Stream, live: dict[int, list[int]], news: asyncio.Event) -> None:
        while (message := await stream.read()) is not None:
            match message.WhichOneof("command"):
                case "submit":
                    self._commands_received += 1
                    request = message.submit.request
                    live[message.submit.slot] = [0, request.stop.max_tokens, len(request.prompt_token_ids)]
                    news.set()
                case "cancel":
                    self._commands_received += 1
                    live.pop(message.cancel.slot, None)

    def _step(
        self, step: int, due: dict[int, list[int]], live: dict[int, list[int]]
    ) -> engine_pb2.SessionResponse:
        """One token for every request that is due."""
        text = self._tokens
        response = engine_pb2.SessionResponse(
            step=step,
            slots=list(due),
            token_ids=[text[row[0] % len(text)] for row in due.values()],
            commands_received=self._commands_received,
        )
        for slot, row in due.items():
            row[0] += 1
            if row[0] >= row[1]:
                usage = generation_pb2.Usage(prompt_tokens=row[2], completion_tokens=row[0])
                response.finished.add(slot=slot, reason=generation_pb2.FINISH_REASON_LENGTH, usage=usage)
                del live[slot]
        return response


async def serve(checkpoint: Path, port: int, session_socket: str, step_s: float) -> None:
    """Serve until killed."""
    engine = ReplayEngine(checkpoint, step_s)
    method = "/tokenwire.v1.Engine/Session"
    sessions = await serve_calls(session_socket, method, engine_pb2.SessionRequest, engine.serve_session)
    server = grpc.aio.server()
    engine_pb2_grpc.add_EngineServicer_to_server(engine, server)
    status = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    for service in ("", "tokenwire.v1.Engine"):
        await status.set(service, health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()
    sessions.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay_engine", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--session-socket", required=True)
    parser.add_argument("--step-ms", type=float, default=20.0)
    options = parser.parse_args()
    uvloop.run(serve(options.checkpoint, options.port, options.session_socket, options.step_ms / 1000))


if __name__ == "__main__":
    main()
