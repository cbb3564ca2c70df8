"""One HTTP request's generations, from their submission to their end.

However the request ends (answered, failed, its client gone, its task cancelled), no generation outlives it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire.status import StatusError
from tokenwire.v1 import tokenizer_pb2
from tokenwire.wakeup import Wakeup
from tokenwire_services.gateway.client import Client
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
            self.end()
            raise

    @property
    def error(self) -> StatusError | None:
        """What the first generation that failed failed with."""
        return next((generation.error for generation in self.generations if generation.error), None)

    @property
    def is_done(self) -> bool:
        """Whether every generation has ended."""
        return all(generation.done for generation in self.generations)

    def attend(self, client: Client) -> None:
        """Watch the client from now on. Whoever calls this ends the exchange, however it goes on."""
        client.on_gone = self._lose_client
        if client.is_gone:
            self._lose_client()

    def end(self) -> None:
        """Cancel whatever is left."""
        for submission in self._submissions:
            self._session.cancel(submission)

    def _lose_client(self) -> None:
        self.is_disconnected = True
        for generation in self.generations:
            generation.hold()
        self.wakeup.set()
