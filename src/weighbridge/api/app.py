"""The control plane's HTTP app: the routes, the error answers and the schema."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match

from weighbridge.api import endpoints, errors, versions
from weighbridge.api.admin import architectures, buckets, keys, machines, orgs, store
from weighbridge.api.admin import endpoints as admin_endpoints
from weighbridge.api.answers import Problem
from weighbridge.api.assurance import probes, receipts
from weighbridge.api.deps import Parts
from weighbridge.api.edge import Edge
from weighbridge.api.inspection import diff, explain
from weighbridge.api.management import aliases, deployments, draining, scaling
from weighbridge.api.usage import metrics, reports
from weighbridge.clock import Clock
from weighbridge.errors import WeighbridgeError

API_VERSION = "1.0.0"
ROUTERS: tuple[APIRouter, ...] = (
    versions.router,
    explain.router,
    diff.router,
    aliases.router,
    endpoints.router,
    scaling.router,
    draining.router,
    deployments.router,
    receipts.router,
    orgs.router,
    buckets.router,
    keys.router,
    architectures.router,
    admin_endpoints.router,
    probes.router,
    machines.router,
    store.router,
    reports.management,
    reports.admin,
    metrics.router,
)


class ControlApp(FastAPI):
    def openapi(self) -> dict[str, Any]:  # FastAPI's own type
        """FastAPI's schema, less the 422 that is never sent (a bad request is a 400)."""
        schema = super().openapi()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        return schema


def create_app(parts: Parts) -> FastAPI:
    """The app on its parts; it starts and stops nothing."""
    app = routes_app(parts.clock)
    app.state.parts = parts
    return app


def routes_app(clock: Clock) -> FastAPI:
    """The app without its parts: enough for the schema."""
    app = ControlApp(
        title="Weighbridge Management API",
        version=API_VERSION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": {"model": Problem, "description": "Error"}},
    )
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(WeighbridgeError, errors.answer_domain_error)
    app.add_exception_handler(RequestValidationError, errors.answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(Edge, clock=clock)
    return app


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        error.headers = {"allow": ", ".join(_methods_at(request))}
    return await errors.answer_http_error(request, error)


def _methods_at(request: Request) -> list[str]:
    """Every method some route has at the request's path; the router itself looks at the first route only."""
    scope: Mapping[str, Any] = {**request.scope, "root_path": ""}
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return sorted(
        {
            method
            for route in routes
            if route.matches({**scope})[0] is not Match.NONE
            for method in route.methods or ()
        }
    )
