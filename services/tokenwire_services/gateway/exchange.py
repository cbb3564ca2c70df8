"""One HTTP request's generations, from their submission to their end.

However the request ends (answered, failed, its client gone, its task cancelled), no generation outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from starlette.types import Receive

from tokenwire.status import StatusError
from tokenwire.v1 import tokenizer_pb2
from tokenwire.wakeup import Wakeup
from tokenwire_services.gateway.generation import Generation, Submission
from tokenwire_services.gateway.session import Session


class Exchange:
    """Generations that are answered together."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.wakeup = Wakeup()
        """Set when there is something to look at: deltas, an end, or that the client hung up."""
        self.generations: list[Generation] = []
        """Of all requests, in their order; of a request's samples in theirs."""
        self._submissions: list[Submission] = []
        self.is_disconnected = False

    def submit(self, requests: Sequence[tokenizer_pb2.TokenizerGenerateRequest], wake_on_delta: bool) -> None:
        """Start the generations of all requests, or none.

        Raises:
            StatusError: one of them cannot be sent.
        """
        try:
            for request in requests:
                submission = self._session.submit(request, self.wakeup, wake_on_delta)
                self._submissions.append(submission)
                self.generations += submission.generations
        except StatusError:
            self._cancel()
            raise

    @property
    def error(self) -> StatusError | None:
        """What the first generation that failed failed with."""
        return next((generation.error for generation in self.generations if generation.error), None)

    @property
    def is_done(self) -> bool:
        """Whether every generation has ended."""
        return all(generation.done for generation in self.generations)

    @contextlib.asynccontextmanager
    async def attended(self, receive: Receive) -> AsyncIterator[None]:
        """Watch the client while the body runs; afterwards cancel whatever is left."""
        watcher = asyncio.create_task(self._watch(receive))
        try:
            yield
        finally:
            watcher.cancel()
            self._cancel()

    def _cancel(self) -> None:
        for submission in self._submissions:
            self._session.cancel(submission)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_disconnected = True
        self.wakeup.set()
