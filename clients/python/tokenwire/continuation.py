"""What it takes to go on with an answer whose server was lost: the request, and what was received of it.

The tokens behind the text are always asked for, and the seed is drawn here unless the caller chose one. So
the request can be sent again, to any process of the service, for what has not come yet: see `Resumption` in
tokenizer.proto.
"""

from __future__ import annotations

import secrets
import time
import uuid

import grpc

from tokenwire.results import Delta, delta_from_proto
from tokenwire.v1 import tokenizer_pb2

FAILOVER_TIMEOUT_S = 30.0
PAUSE_S = 0.1
"""Between attempts to reach the service."""


class Continuation:
    """One answer, by however many calls it comes.

    >>> call = stub.Generate(continuation.request, timeout=continuation.timeout_s)
    """

    def __init__(
        self,
        request: tokenizer_pb2.TokenizerGenerateRequest,
        timeout_s: float | None,
        failover_timeout_s: float,
    ) -> None:
        """
        Args:
            request: what the caller asks for.
            timeout_s: for all of the answer; None: as long as it takes.
            failover_timeout_s: how long to try to reach a service that was lost.
        """
        self.request = request
        """To send next."""
        self._wants_token_ids = request.return_token_ids
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._failover_timeout_s = failover_timeout_s
        self._token_ids: list[int] = []
        self._has_begun = False
        self._give_up_at: float | None = None
        """Set while the service is lost."""
        if not request.request_id:
            request.request_id = str(uuid.uuid4())
        if not request.sampling.HasField("seed"):
            request.sampling.seed = secrets.randbits(63)
        request.return_token_ids = True

    @property
    def timeout_s(self) -> float | None:
        """What is left of the time for the whole answer."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def receive(self, response: tokenizer_pb2.TokenizerGenerateResponse) -> Delta | None:
        """Note what came; it as the caller asked for it, None where that leaves nothing."""
        self._has_begun = True
        self._give_up_at = None
        self._token_ids += response.token_ids
        if not self._wants_token_ids:
            response.ClearField("token_ids")
            response.ClearField("prompt_token_ids")
        if not response.ByteSize():
            return None
        return delta_from_proto(response)

    def resume_after(self, error: grpc.RpcError) -> bool:
        """Whether a call that failed is worth another, after `PAUSE_S`, by the `request` as it is then."""
        assert isinstance(error, grpc.aio.AioRpcError | grpc.Call)
        if error.code() is not grpc.StatusCode.UNAVAILABLE or not self._has_begun:
            return False
        now = time.monotonic()
        if self._give_up_at is None:
            self._give_up_at = now + self._failover_timeout_s
            self.request.resumption.request_id = self.request.request_id
            del self.request.resumption.samples[:]
            self.request.resumption.samples.add(ids=self._token_ids)
            self.request.request_id = str(uuid.uuid4())
        return now + PAUSE_S < self._give_up_at
