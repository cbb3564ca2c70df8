"""What the routes' documentation has in common."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from tokenwire_services.gateway.schemas.responses import ErrorResponse

_EVERYWHERE = (500, 503, 504)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """An endpoint's errors: those named, and those that every endpoint has. All have one body."""
    named: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": HTTPStatus(status).phrase}
        for status in sorted({*statuses, *_EVERYWHERE})
    }
    return {**named, "default": {"model": ErrorResponse, "description": "Any other error"}}


def generation_responses(answer: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a generation endpoint answers: in one piece as described, or as a stream of such objects."""
    stream = {"example": "data: {...}\n\ndata: [DONE]\n\n"}
    success = {"model": answer, "content": {"text/event-stream": stream}}
    return {200: success, **error_responses(400, 404, 413, 415, 429)}
