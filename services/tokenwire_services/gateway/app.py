"""The HTTP application: routes, and the layers around them."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

from tokenwire.status import StatusError
from tokenwire_services.gateway import chat, completions, models, operations, tokenize
from tokenwire_services.gateway.auth import RequireApiKey
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.gateway.failures import on_error
from tokenwire_services.gateway.json_route import IGNORED_HEADER, PassJsonRoutes
from tokenwire_services.gateway.limits import LimitBody
from tokenwire_services.gateway.metrics import MeasureRequests, Metrics
from tokenwire_services.gateway.request_id import HEADER, NameRequests
from tokenwire_services.gateway.request_line import PlainRequests
from tokenwire_services.gateway.tokenizer_link import TokenizerLink


def create_app(config: GatewayConfig, link: TokenizerLink, metrics: Metrics) -> ASGIApp:
    """The application that answers over a link, which its caller starts and closes."""
    app = FastAPI(
        title="Tokenwire",
        summary="OpenAI-style text generation",
        version=version("tokenwire"),
        redirect_slashes=False,
        strict_content_type=False,
        redoc_url=None,
    )
    routers = (
        chat.router(link),
        completions.router(link),
        tokenize.router(link),
        models.router(link),
        operations.router(link, metrics),
    )
    for router in routers:
        app.include_router(router)
    for kind in (StatusError, HTTPException, Exception):
        app.add_exception_handler(kind, on_error)
    routes = [route for router in routers for route in router.routes]
    return _in_layers(PassJsonRoutes(app, routes), config, metrics)


def _in_layers(app: ASGIApp, config: GatewayConfig, metrics: Metrics) -> ASGIApp:
    """What every request passes, the innermost first."""
    app = LimitBody(app, config.max_body_bytes)
    if config.api_keys:
        app = RequireApiKey(app, config.api_keys)
    if config.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=(HEADER, IGNORED_HEADER, "retry-after"),
        )
    app = ServerErrorMiddleware(app, on_error)
    return PlainRequests(NameRequests(MeasureRequests(app, metrics)))
