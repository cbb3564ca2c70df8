"""A client of the tokenizer service, for one request or a session, and requests for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from tests.patience import PATIENCE_S
from tests.services.tokenizer.conftest import Service
from tokenwire.status import StatusError
from tokenwire.v1 import generation_pb2, tokenizer_pb2

Request = tokenizer_pb2.TokenizerGenerateRequest
Response = tokenizer_pb2.TokenizerGenerateResponse
ChatMessage = tokenizer_pb2.ChatMessage
Command = tokenizer_pb2.TokenizerSessionRequest
Message = tokenizer_pb2.TokenizerSessionResponse

STOP, LENGTH = generation_pb2.FINISH_REASON_STOP, generation_pb2.FINISH_REASON_LENGTH
HELLO = ChatMessage(role="user", content="Hello")


def chat(*messages: ChatMessage, **options: Any) -> Request:
    """A request to go on with a conversation, that of HELLO alone if no other is given."""
    return Request(chat=tokenizer_pb2.ChatPrompt(messages=messages or (HELLO,), **options))


def token_request(prompt: list[int], max_tokens: int, **sampling: Any) -> Request:
    """A request of token IDs in, token IDs out, that ends with its length."""
    return Request(
        token_ids=generation_pb2.TokenIds(ids=prompt),
        stop=generation_pb2.StopConditions(max_tokens=max_tokens, ignore_eos=True),
        sampling=generation_pb2.SamplingParams(**sampling),
        return_token_ids=True,
    )


async def generate(service: Service, request: Request) -> list[Response]:
    return [response async for response in service.stub.Generate(request)]


async def refusal(service: Service, request: Request) -> StatusError:
    """What a request is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(service, request)
    return StatusError.from_call(caught.value)


def text_of(responses: Iterable[Response]) -> str:
    return "".join(response.text_delta for response in responses)


def texts_of(responses: Iterable[Response]) -> dict[int, str]:
    """The text of each sample."""
    found: dict[int, str] = defaultdict(str)
    for response in responses:
        found[response.sample_index] += response.text_delta
    return found


def token_ids_of(responses: Iterable[Response]) -> dict[int, list[int]]:
    """The token IDs of each sample."""
    found: dict[int, list[int]] = defaultdict(list)
    for response in responses:
        found[response.sample_index] += response.token_ids
    return found


class Peer:
    """A gateway's side of a session: what it sends, and all messages that it has read."""

    def __init__(self, service: Service, **options: int) -> None:
        """`options`: the connection's, of the gRPC library."""
        self.call = service.session_stub(**options).Session()
        self.messages: list[Message] = []

    async def open(self, **options: Any) -> Message.Opened:
        """Open the session "a", or resume it."""
        await self.call.write(Command(open={"session_id": "a", **options}))
        message = await self.call.read()
        assert message.HasField("opened")
        return message.opened

    async def submit(self, slot: int, request: Request) -> None:
        await self.call.write(Command(submit={"slot": slot, "request": request}))

    async def cancel(self, slot: int) -> None:
        await self.call.write(Command(cancel={"slot": slot}))

    async def read(self) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            message = await self.call.read()
        assert isinstance(message, Message), "the session ended"
        self.messages.append(message)
        return message

    async def finish(self, num_requests: int) -> dict[int, Message.FinishEvent]:
        """Read until so many requests have ended."""
        ends: dict[int, Message.FinishEvent] = {}
        while len(ends) < num_requests:
            for event in (await self.read()).finished:
                assert event.slot not in ends, "a slot ended twice"
                ends[event.slot] = event
        return ends

    async def drain(self) -> None:
        """Read until the session ends."""
        while await self.call.read() is not grpc.aio.EOF:
            pass

    def text(self, slot: int) -> str:
        columns = (
            text
            for message in self.messages
            for at, text in zip(message.slots, message.text_deltas, strict=True)
            if at == slot
        )
        return "".join(columns)

    def num_tokens(self, slot: int) -> int:
        return sum(
            count
            for message in self.messages
            for at, count in zip(message.slots, message.token_counts, strict=True)
            if at == slot
        )

    def token_ids(self) -> dict[int, list[int]]:
        """The token IDs that each slot got, where they were asked for."""
        tokens: dict[int, list[int]] = defaultdict(list)
        for message in self.messages:
            for detail in message.details:
                tokens[detail.slot] += detail.response.token_ids
        return tokens


async def open_session(service: Service, **options: Any) -> Peer:
    """A peer that has opened its session."""
    peer = Peer(service)
    await peer.open(**options)
    return peer
