"""The model at the other end of a link, asked for once for each engine process.

A process is known by its instance id, a model by the fingerprint of its description and files. So a link that
connects again knows whether its requests go on where they were, move to another process with the same model,
or have lost their model.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from enum import Enum

from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire_services.tokenizer.model import Model, fetch_files, fingerprint, load_model

_ANSWER_TIMEOUT_S = 120.0
"""For the engine to answer a question about its model once it serves."""


class Meeting(Enum):
    """Whom a connection was made with."""

    FIRST = "nobody was there before"
    SAME_PROCESS = "the same process as before"
    SAME_MODEL = "another process that serves the same model"
    OTHER_MODEL = "another process, and another model"


class EngineModel:
    """What one link's engine serves.

    Attributes:
        last: what it serves, or served last; outlives the connection, for the engine may come back with it.
        is_there: whether the engine at the other end was found to serve it.
    """

    def __init__(self, find: Callable[[bytes], Model | None], check: Callable[[Model], None]) -> None:
        """`find` gives the model with a fingerprint where another link has loaded it; `check` raises for a
        model that must not be served."""
        self._find = find
        self._check = check
        self.last: Model | None = None
        self.is_there = False

    async def meet(self, stub: engine_pb2_grpc.EngineAsyncStub) -> Meeting:
        """Ask an engine that was connected to what it serves, and load that unless it is known.

        Raises:
            AioRpcError: it does not answer.
            EngineRefusedError: what it serves must not be served.
            ModelFilesError: its tokenizer files cannot be served.
        """
        info = await stub.GetModel(engine_pb2.GetModelRequest(), timeout=_ANSWER_TIMEOUT_S)
        last = self.last
        if last is not None and info.instance_id and info.instance_id == last.info.instance_id:
            self._serve(last)
            return Meeting.SAME_PROCESS
        files = await fetch_files(stub, _ANSWER_TIMEOUT_S)
        digest = fingerprint(info, files)
        if last is not None and last.fingerprint == digest:
            self._serve(dataclasses.replace(last, info=info))
            return Meeting.SAME_MODEL
        if (same := self._find(digest)) is not None:
            self._serve(dataclasses.replace(same, info=info))
        else:
            self._serve(await asyncio.to_thread(load_model, info, files))
        return Meeting.FIRST if last is None else Meeting.OTHER_MODEL

    def _serve(self, model: Model) -> None:
        self._check(model)
        self.last = model
        self.is_there = True
