"""The public listener: every request in, one answer and one access record out."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec
import structlog
from aiohttp import web

from weighbridge.clock import Clock
from weighbridge.errors import InvalidError, UnavailableError, WeighbridgeError
from weighbridge.gateway.admission import INFERENCE_PATHS, admit
from weighbridge.gateway.auth import authenticate
from weighbridge.gateway.errors import error_answer, model_not_found
from weighbridge.gateway.http.bodies import read_body
from weighbridge.gateway.http.control import ControlForward, is_control_path
from weighbridge.gateway.http.exchange import ClientGoneError
from weighbridge.gateway.http.limits import SERVER, Limits
from weighbridge.gateway.http.proxy import Proxy
from weighbridge.gateway.limits.meter import Meter
from weighbridge.gateway.metrics.access import CLIENT_GONE, AccessRecord, finish
from weighbridge.gateway.metrics.figures import Figures
from weighbridge.gateway.snapshots import Snapshots
from weighbridge.gateway.table import CurrentTables, Tables
from weighbridge.routing.model import EndpointRoute, KeyEntry

log = structlog.get_logger()

MODELS_PATH = "/v1/models"
PUBLIC_MODELS_PATH = "/public/v1/models"
WARMING_PATH = "/v1/tcp_warming"


@dataclass(frozen=True, slots=True)
class Gateway:
    """Call it with a request. Its parts are the worker's; it holds no state of its own."""

    snapshots: Snapshots
    current: CurrentTables
    pepper: bytes
    proxy: Proxy
    control: ControlForward
    figures: Figures
    meter: Meter
    limits: Limits
    clock: Clock

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        record = AccessRecord(
            request_id=self.clock.new_uuid(),
            route=_route_name(path),
            started_s=self.clock.monotonic(),
        )
        try:
            return await self._answer(request, path, record)
        finally:
            self.meter.settle(record)
            # A full log volume costs the line, not the answer.
            with suppress(OSError):
                finish(record, self.figures, self.clock.monotonic())

    async def _answer(
        self, request: web.BaseRequest, path: str, record: AccessRecord
    ) -> web.StreamResponse:
        try:
            response = await self._route(request, path, record)
        except WeighbridgeError as error:
            response = _error(error, record)
        except (ClientGoneError, ConnectionError):
            record.status = CLIENT_GONE
            return web.Response(status=CLIENT_GONE)
        except Exception:
            log.exception("request.failed", request_id=record.request_id)
            response = _error(WeighbridgeError("Something went wrong here"), record)
        if not response.prepared:
            record.status = response.status
            response.headers.update(record.answer_headers)
            response.headers["x-request-id"] = record.request_id
            response.headers["server"] = SERVER
        return response

    async def _route(
        self, request: web.BaseRequest, path: str, record: AccessRecord
    ) -> web.StreamResponse:
        if sum(len(name) + len(value) for name, value in request.raw_headers) > (
            self.limits.header_bytes_max
        ):
            raise InvalidError("The headers are too large", code="headers_too_large")
        if is_control_path(path):
            return await self.control.forward(request, record)
        if path in INFERENCE_PATHS:
            _require_method(request, "POST")
            return await self._infer(request, path, record)
        if path == WARMING_PATH:
            return _json({"status": "ok"})
        if path == MODELS_PATH or path.startswith(f"{MODELS_PATH}/"):
            _require_method(request, "GET")
            tables = self._tables()
            key = self._caller(request, tables, record)
            return _json(_models(tables, key, unquote(path[len(MODELS_PATH) + 1 :])))
        if path == PUBLIC_MODELS_PATH:
            # Every endpoint here is dedicated to an org, so none is public.
            return _json({"object": "list", "data": []})
        if path.startswith(f"{PUBLIC_MODELS_PATH}/"):
            raise model_not_found(unquote(path[len(PUBLIC_MODELS_PATH) + 1 :]))
        return web.Response(status=404, content_type="text/plain")

    async def _infer(
        self, request: web.BaseRequest, path: str, record: AccessRecord
    ) -> web.StreamResponse:
        key = self._caller(request, self._tables(), record)
        body = await read_body(request, self.limits.body_bytes_max, self.limits.body_idle_s)
        admitted = admit(
            path,
            body,
            content_type=request.headers.get("content-type", ""),
            content_encoding=",".join(request.headers.getall("content-encoding", [])),
            tables=self._tables(),
            key=key,
        )
        record.endpoint_id, record.body_bytes = admitted.endpoint.endpoint_id, len(body)
        self.meter.admit(key, admitted, record)
        return await self.proxy.answer(request, admitted, record)

    def _tables(self) -> Tables:
        if not self.snapshots.loaded:
            # Without tables every key would look wrong, and callers do not retry that.
            raise UnavailableError(
                "No routes are published yet; try again shortly", code="control_plane_away"
            )
        return self.current.tables

    def _caller(self, request: web.BaseRequest, tables: Tables, record: AccessRecord) -> KeyEntry:
        headers = request.headers.getall("authorization", [])
        key = authenticate(headers, tables, self.pepper, self.clock.now().timestamp())
        record.org_id, record.key_id = key.org_id, key.key_id
        return key


def _route_name(path: str) -> str:
    """Of a bounded set, as it labels figures; also keeps callers' ids out of the log."""
    if path in INFERENCE_PATHS or path == WARMING_PATH:
        return path
    if path.startswith((MODELS_PATH, PUBLIC_MODELS_PATH)):
        return MODELS_PATH if path.startswith(MODELS_PATH) else PUBLIC_MODELS_PATH
    return f"/{path[1:].partition('/')[0]}" if is_control_path(path) else "unrouted"


def _models(tables: Tables, key: KeyEntry, wanted: str) -> Mapping[str, object]:
    if wanted:
        endpoint = tables.endpoint(wanted, key.org_id)
        if endpoint is None:
            raise model_not_found(wanted)
        return _model(endpoint)
    visible = tables.endpoints_of(key.org_id)
    return {"object": "list", "data": [_model(endpoint) for endpoint in visible]}


def _model(endpoint: EndpointRoute) -> Mapping[str, object]:
    return {
        "id": endpoint.endpoint_id,
        "object": "model",
        "created": endpoint.created_unix_s,
        "owned_by": endpoint.org_name,
    }


def _require_method(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        raise InvalidError(f"This path takes {method} only", code="method_not_allowed")


def _json(value: Mapping[str, object]) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _error(error: WeighbridgeError, record: AccessRecord) -> web.Response:
    answer = error_answer(error)
    record.code = error.code
    return web.Response(
        status=answer.status,
        body=answer.body,
        content_type="application/json",
        headers=dict(answer.headers),
    )
