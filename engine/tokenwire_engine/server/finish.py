"""How the end of a request looks on the wire."""

from __future__ import annotations

import grpc

from tokenwire.status import StatusError
from tokenwire.v1 import generation_pb2
from tokenwire_engine.scheduler.outputs import Finished
from tokenwire_engine.scheduler.request import FinishReason

FINISH_REASONS = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: generation_pb2.FINISH_REASON_CANCELLED,
    FinishReason.ERROR: generation_pb2.FINISH_REASON_ERROR,
    FinishReason.EXPIRED: generation_pb2.FINISH_REASON_ERROR,
}

_ERROR_CODES = {
    FinishReason.ERROR: grpc.StatusCode.INTERNAL,
    FinishReason.EXPIRED: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def usage(finished: Finished) -> generation_pb2.Usage:
    """What the request took."""
    return generation_pb2.Usage(
        prompt_tokens=finished.prompt_tokens,
        completion_tokens=finished.completion_tokens,
        cached_prompt_tokens=finished.cached_prompt_tokens,
    )


def error_of(finished: Finished) -> StatusError | None:
    """What a request that failed in the engine, or took too long, ends with; None: it did not."""
    code = _ERROR_CODES.get(finished.reason)
    return None if code is None else StatusError(code, finished.error)
