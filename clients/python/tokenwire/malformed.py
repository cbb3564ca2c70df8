"""Requests that are not the message they should be: the caller's fault, so INVALID_ARGUMENT.

gRPC itself answers UNKNOWN and logs a traceback for bytes that cannot be decoded, such as a string that is
not UTF-8.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tokenwire.status import StatusError, abort, invalid_argument

Parse = Callable[[bytes], Any]


class RefuseMalformed(grpc.aio.ServerInterceptor):
    """For servers whose methods are coroutines; those that read a stream must turn StatusError into a status.

    A call with one request ends before its method runs; in a stream, reading the message raises StatusError.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, with its requests checked."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        parse = _strict(handler.request_deserializer)
        serialize = handler.response_serializer
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(handler.stream_stream, parse, serialize)
        if inspect.iscoroutinefunction(handler.unary_stream):
            method = _after_check(handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(method, _as_value(parse), serialize)
        if inspect.iscoroutinefunction(handler.unary_unary):
            method = _after_check(handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(method, _as_value(parse), serialize)
        return handler


def _strict(parse: Parse) -> Parse:
    """Raises StatusError for what cannot be decoded."""

    def decode(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            raise invalid_argument("request", f"cannot be decoded: {error}") from error

    return decode


def _as_value(parse: Parse) -> Parse:
    """Returns the StatusError: gRPC decodes a single request where no exception may leave."""

    def decode(data: bytes) -> Any:
        try:
            return parse(data)
        except StatusError as error:
            return error

    return decode


def _after_check(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def checked(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if isinstance(request, StatusError):
            await abort(context, request)
        return await method(request, context)

    return checked
