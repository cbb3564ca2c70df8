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
}


def usage(finished: Finished) -> generation_pb2.Usage:
    """What the request took."""
    return generation_pb2.Usage(
        prompt_tokens=finished.prompt_tokens, completion_tokens=finished.completion_tokens
    )


def internal_error(finished: Finished) -> StatusError:
    """What a request that failed in the engine ends with."""
    return StatusError(grpc.StatusCode.INTERNAL, finished.error)
