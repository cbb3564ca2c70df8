"""The connection to the tokenizer service: one session for all requests, opened again whenever it breaks.

Requests that were in flight when a session broke end with an error; new ones are refused until the next
session is open. Nothing is retried here, so no request runs twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from tokenwire_services.gateway.metrics import Metrics
from tokenwire_services.gateway.session import Command, Session

SERVICE = "tokenwire.v1.Tokenizer"
RETRY_AFTER_S = 1.0
_CALL_TIMEOUT_S = 5.0
_TEXT_TIMEOUT_S = 60.0
"""For a text of the largest size to be encoded, or decoded."""
_FLUSH_TIMEOUT_S = 0.5
_SHORTEST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 2.0
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", int(_SHORTEST_BACK_OFF_S * 1000)),
    ("grpc.min_reconnect_backoff_ms", int(_SHORTEST_BACK_OFF_S * 1000)),
    ("grpc.max_reconnect_backoff_ms", int(_LONGEST_BACK_OFF_S * 1000)),
    # A host that vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

logger = logging.getLogger(__name__)

Call = grpc.aio.StreamStreamCall[Command, tokenizer_pb2.TokenizerSessionResponse]


class TokenizerLink:
    """Sessions with one tokenizer service, one after another."""

    def __init__(self, address: str, metrics: Metrics, request_timeout_s: float | None = None) -> None:
        self._address = address
        self._metrics = metrics
        self._request_timeout_s = request_timeout_s
        self._session: Session | None = None
        self._opened = asyncio.Event()
        self._closing = False

    async def start(self) -> None:
        """Begin to connect, in the background."""
        self._channel = grpc.aio.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
        self._stub = tokenizer_pb2_grpc.TokenizerStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._keeper = asyncio.create_task(self._keep_open())

    async def wait_open(self) -> None:
        """Return once a session is open."""
        await self._opened.wait()

    @property
    def session(self) -> Session:
        """The open session.

        Raises:
            StatusError: UNAVAILABLE while there is none.
        """
        if self._closing:
            raise unavailable("the gateway is shutting down", RETRY_AFTER_S)
        if self._session is None:
            raise unavailable(
                f"the tokenizer service at {self._address} cannot be reached; try again", RETRY_AFTER_S
            )
        return self._session

    async def close(self, grace_s: float) -> None:
        """Refuse new requests, give those in flight `grace_s` seconds, end the others with an error."""
        self._closing = True
        deadline = asyncio.get_running_loop().time() + grace_s
        while self._session is not None and self._session.num_live:
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.02)
        if self._session is not None:
            # The session ends by itself once the tokenizer was told what to cancel.
            self._session.close(unavailable("the gateway is shutting down", RETRY_AFTER_S))
            await asyncio.wait({self._keeper}, timeout=_FLUSH_TIMEOUT_S)
        self._keeper.cancel()
        await asyncio.wait({self._keeper})
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

    async def _keep_open(self) -> None:
        back_off_s = _SHORTEST_BACK_OFF_S
        while True:
            session = Session(self._metrics, self._request_timeout_s)
            try:
                await self._run(session)
                reason = "it ended the session"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except Exception as error:  # a peer that breaks the protocol must not end the link
                logger.exception("the session with the tokenizer service failed")
                reason = repr(error)
            if self._opened.is_set():
                back_off_s = _SHORTEST_BACK_OFF_S
            self._opened.clear()
            self._session = None
            if self._closing:
                return
            logger.warning("lost the tokenizer service at %s: %s", self._address, reason)
            message = f"the connection to the tokenizer service at {self._address} broke; try again"
            session.close(unavailable(message, RETRY_AFTER_S))
            await asyncio.sleep(back_off_s)
            back_off_s = min(2 * back_off_s, _LONGEST_BACK_OFF_S)

    async def _run(self, session: Session) -> None:
        """One session, from its opening to its end."""
        call: Call = self._stub.Session(wait_for_ready=True)
        writer: asyncio.Task[None] | None = None
        try:
            await call.write(Command(open=Command.Open(session_id=str(uuid.uuid4()))))
            writer = asyncio.create_task(_write(call, session))
            while True:
                message = await call.read()
                if not isinstance(message, tokenizer_pb2.TokenizerSessionResponse):  # the end of the stream
                    return
                if message.HasField("opened"):
                    logger.info("connected to the tokenizer service at %s", self._address)
                    self._session = session
                    self._opened.set()
                session.deliver(message)
        finally:
            if writer is not None:
                writer.cancel()
            call.cancel()


async def _write(call: Call, session: Session) -> None:
    """Send a session's commands in order. A broken call is reported by its reader."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while (command := await session.next_command()) is not None:
            await call.write(command)
        await call.done_writing()
