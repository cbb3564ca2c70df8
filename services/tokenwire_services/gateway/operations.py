"""What operators look at: /health, /ping, /version and /metrics. None of them asks for a key."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from tokenwire_services.gateway.documentation import error_responses
from tokenwire_services.gateway.metrics import Metrics
from tokenwire_services.gateway.tokenizer_link import TokenizerLink


def router(link: TokenizerLink, metrics: Metrics) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/health", summary="Whether requests can be served", responses=error_responses())
    async def health() -> dict[str, str]:
        await link.check_health()
        return {"status": "ok"}

    @routes.get(
        "/ping", summary="The same, under a name that some platforms ask", responses=error_responses()
    )
    @routes.post("/ping", include_in_schema=False)
    async def ping() -> dict[str, str]:
        return await health()

    @routes.get("/version", summary="The version of this software")
    async def show_version() -> dict[str, str]:
        return {"version": version("tokenwire")}

    @routes.get("/metrics", summary="Metrics in Prometheus' text format", response_class=Response)
    async def prometheus_metrics() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return routes
