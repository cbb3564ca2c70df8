"""How the end of a request looks on the wire."""

from __future__ import annotations

import grpc

from tokenwire.status import StatusError, invalid_argument, unavailable
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.scheduler.outputs import Finished
from tokenwire_engine.scheduler.request import FinishReason

FINISH_REASONS = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: generation_pb2.FINISH_REASON_CANCELLED,
    FinishReason.ERROR: generation_pb2.FINISH_REASON_ERROR,
    FinishReason.UNSATISFIABLE: generation_pb2.FINISH_REASON_ERROR,
    FinishReason.EXPIRED: generation_pb2.FINISH_REASON_ERROR,
    FinishReason.HANDED_BACK: generation_pb2.FINISH_REASON_ERROR,
}

RETRY_DRAINED_S = 1.0
"""When to try again what an engine handed back: its successor may be there."""

_ERROR_CODES = {
    FinishReason.ERROR: grpc.StatusCode.INTERNAL,
    FinishReason.EXPIRED: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def usage(finished: Finished) -> generation_pb2.Usage | None:
    """What the request took; None while another of its samples goes on."""
    if not finished.is_last:
        return None
    return generation_pb2.Usage(
        prompt_tokens=finished.prompt_tokens,
        completion_tokens=finished.completion_tokens,
        cached_prompt_tokens=finished.cached_prompt_tokens,
    )


def error_of(finished: Finished) -> StatusError | None:
    """What a request ends with that failed in the engine, took too long or was handed back; None: it was none
    of these."""
    if finished.reason is FinishReason.HANDED_BACK:
        message = (
            f"the engine is draining and hands the request back after {finished.completion_tokens} tokens; "
            "continue it elsewhere, with these as resumed_token_ids"
        )
        return handed_back(message, finished.completion_tokens, finished.seed)
    if finished.reason is FinishReason.UNSATISFIABLE:
        return invalid_argument("constraint", finished.error)
    code = _ERROR_CODES.get(finished.reason)
    return None if code is None else StatusError(code, finished.error)


def handed_back(message: str, output_tokens: int, seed: int | None = None) -> StatusError:
    """A request that this engine does not go on with, and what it takes to continue it."""
    error = unavailable(message, RETRY_DRAINED_S)
    detail = engine_pb2.HandedBack(output_tokens=output_tokens, seed=seed)
    return StatusError(error.code, error.message, [*error.details, detail])
