"""The HTTP application: routes, the layers around them, and what becomes of errors."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from tokenwire.status import StatusError
from tokenwire_services.gateway import chat, completions, models, operations, tokenize
from tokenwire_services.gateway.auth import RequireApiKey
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.field_names import FieldNames
from tokenwire_services.gateway.limits import LimitBody
from tokenwire_services.gateway.metrics import MeasureRequests, Metrics
from tokenwire_services.gateway.request_id import HEADER, NameRequests
from tokenwire_services.gateway.sse import OfferServerSend
from tokenwire_services.gateway.tokenizer_link import TokenizerLink
from tokenwire_services.gateway.validation import explain

_NAMES = {
    chat.PATH: FieldNames("chat"),
    completions.PATH: FieldNames("completions"),
    tokenize.TOKENIZE: FieldNames("tokenize"),
    tokenize.DETOKENIZE: FieldNames("detokenize"),
}


def create_app(config: GatewayConfig, link: TokenizerLink, metrics: Metrics) -> ASGIApp:
    """The application that answers over a link, which its caller starts and closes."""
    layers = [Middleware(LimitBody, config.max_body_bytes)]
    if config.api_keys:
        layers.insert(0, Middleware(RequireApiKey, config.api_keys))
    if config.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=(HEADER, "retry-after"),
        )
        layers.insert(0, cors)
    app = FastAPI(
        title="Tokenwire",
        summary="OpenAI-style text generation",
        version=version("tokenwire"),
        middleware=layers,
        redirect_slashes=False,
        strict_content_type=False,
        redoc_url=None,
    )
    app.include_router(chat.router(link))
    app.include_router(completions.router(link))
    app.include_router(tokenize.router(link))
    app.include_router(models.router(link))
    app.include_router(operations.router(link, metrics))
    app.add_exception_handler(StatusError, _on_status_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_body)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)
    return OfferServerSend(NameRequests(MeasureRequests(app, metrics)))


async def _on_status_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StatusError)
    return ApiError.from_status(error, _NAMES.get(request.url.path)).response()


async def _on_invalid_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return explain(error.errors(), error.body).response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == 404:
        message = f"Unknown request URL: {request.method} {request.url.path}; see /docs"
    elif error.status_code == 405:
        message = f"Method {request.method} is not allowed for {request.url.path}; see /docs"
    headers = tuple((error.headers or {}).items())
    return ApiError.from_http(error.status_code, message, headers).response()


async def _on_bug(request: Request, error: Exception) -> Response:
    return ApiError.from_http(500, "The server had an error while processing the request").response()
