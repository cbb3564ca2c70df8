"""The tokenizer service, as the gateway knows it: a session for all requests, and calls for all else.

Of several processes the session goes to the one that is preferred. When that dies, it goes on at another;
when it is back, new requests go there again, in a new session, and the others end where they are.
"""

from __future__ import annotations

import asyncio
import logging

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenwire.channel import DIRECT
from tokenwire.duplex.unix import connect
from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from tokenwire_services.gateway.metrics import Metrics
from tokenwire_services.gateway.session import Session
from tokenwire_services.gateway.session_link import (
    LONGEST_BACK_OFF_S,
    RETRY_AFTER_S,
    SHORTEST_BACK_OFF_S,
    SessionLink,
)
from tokenwire_services.process_address import ProcessAddress

SERVICE = "tokenwire.v1.Tokenizer"
SETTLED_S = 5.0
"""How long a process that is back must have been there for requests to return to it."""
LOOK_S = 1.0
_CALL_TIMEOUT_S = 5.0
_TEXT_TIMEOUT_S = 60.0
"""For a text of the largest size to be encoded, or decoded."""
_CHANNEL_OPTIONS = (
    DIRECT,
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", int(SHORTEST_BACK_OFF_S * 1000)),
    ("grpc.min_reconnect_backoff_ms", int(SHORTEST_BACK_OFF_S * 1000)),
    ("grpc.max_reconnect_backoff_ms", int(LONGEST_BACK_OFF_S * 1000)),
    # A host that vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

logger = logging.getLogger(__name__)


class TokenizerLink:
    """The connections with one tokenizer service."""

    def __init__(
        self,
        address: ProcessAddress,
        metrics: Metrics,
        request_timeout_s: float | None = None,
        failover_timeout_s: float = 30.0,
    ) -> None:
        """`failover_timeout_s`: how long requests wait for a process when theirs was lost."""
        self._processes = address
        self._address = address.authority
        self._metrics = metrics
        self._request_timeout_s = request_timeout_s
        self._failover_timeout_s = failover_timeout_s
        self._others: set[SessionLink] = set()
        """Of sessions that take no new requests yet, or any more."""
        self._draining: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self) -> None:
        """Begin to connect, in the background."""
        self._channel = grpc.aio.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
        self._stub = tokenizer_pb2_grpc.TokenizerStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._link = self._open_link()
        self._returning = asyncio.create_task(self._return_home())

    def _open_link(self) -> SessionLink:
        session = Session(self._metrics, self._request_timeout_s)
        return SessionLink(self._processes, session, self._failover_timeout_s)

    async def wait_open(self) -> None:
        """Return once a session is open."""
        await self._link.wait_open()

    @property
    def session(self) -> Session:
        """The open session.

        Raises:
            StatusError: UNAVAILABLE while there is none.
        """
        if self._closing:
            raise _shutting_down()
        if not self._link.is_serving:
            raise unavailable(
                f"the tokenizer service at {self._address} cannot be reached; try again", RETRY_AFTER_S
            )
        return self._link.session

    async def close(self, grace_s: float) -> None:
        """Refuse new requests, give those in flight `grace_s` seconds, end the others with an error."""
        self._closing = True
        self._returning.cancel()
        await asyncio.gather(*(self._end(link, grace_s) for link in (self._link, *self._others)))
        await asyncio.wait({self._returning, *self._draining})
        await self._channel.close()

    async def list_models(self) -> list[tokenizer_pb2.ListModelsResponse.ModelCard]:
        """The models served.

        Raises:
            StatusError: the tokenizer service did not answer.
        """
        try:
            request = tokenizer_pb2.ListModelsRequest()
            return list((await self._stub.ListModels(request, timeout=_CALL_TIMEOUT_S)).models)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None

    async def tokenize(self, request: tokenizer_pb2.TokenizeRequest) -> tokenizer_pb2.TokenizeResponse:
        """The tokens of a text or a chat.

        Raises:
            StatusError: the tokenizer service refused, or did not answer.
        """
        try:
            return await self._stub.Tokenize(request, timeout=_TEXT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None

    async def detokenize(self, request: tokenizer_pb2.DetokenizeRequest) -> tokenizer_pb2.DetokenizeResponse:
        """The text of tokens.

        Raises:
            StatusError: the tokenizer service refused, or did not answer.
        """
        try:
            return await self._stub.Detokenize(request, timeout=_TEXT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None

    async def check_health(self) -> None:
        """Return when requests can be served.

        Raises:
            StatusError: UNAVAILABLE, saying what is down.
        """
        _ = self.session
        try:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            response = await self._health.Check(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            raise unavailable(f"the tokenizer service at {self._address} is not ready", RETRY_AFTER_S)

    def _failure(self, error: grpc.aio.AioRpcError) -> StatusError:
        failure = StatusError.from_call(error)
        if failure.code is grpc.StatusCode.UNAVAILABLE and not failure.details:
            message = f"the tokenizer service at {self._address} cannot be reached: {failure.message}"
            return unavailable(message, RETRY_AFTER_S)
        return failure

    async def _return_home(self) -> None:
        """Have new requests go to the process that is preferred, whenever it comes back."""
        while True:
            left = self._link
            await left.wait_away()
            await _until_settled(self._processes.sessions[0])
            if not left.is_away:
                continue
            back = self._open_link()
            self._others.add(back)
            await back.wait_open()
            logger.info("new requests go to the process of the tokenizer service that was lost, again")
            self._link = back
            self._others ^= {back, left}
            task = asyncio.create_task(self._end(left))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def _end(self, link: SessionLink, grace_s: float | None = None) -> None:
        """Close a link once its requests have ended, or the grace has."""
        await link.drain(grace_s)
        await link.close(_shutting_down())
        self._others.discard(link)


async def _until_settled(place: str) -> None:
    """Return once somebody has listened at a socket for a while."""
    loop = asyncio.get_running_loop()
    since: float | None = None
    while since is None or loop.time() - since < SETTLED_S:
        await asyncio.sleep(LOOK_S)
        if not _has_listener(place):
            since = None
        elif since is None:
            since = loop.time()


def _has_listener(place: str) -> bool:
    try:
        connect(place).close()
    except OSError:
        return False
    return True


def _shutting_down() -> StatusError:
    return unavailable("the gateway is shutting down", RETRY_AFTER_S)
