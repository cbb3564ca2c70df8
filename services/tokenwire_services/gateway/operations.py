"""What operators look at: GET /health and GET /metrics. Neither asks for a key."""

from __future__ import annotations

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

    @routes.get("/metrics", summary="Metrics in Prometheus' text format", response_class=Response)
    async def prometheus_metrics() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return routes
