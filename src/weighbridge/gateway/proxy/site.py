"""The public listener's paths: which visit a request becomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote

from weighbridge.errors import InvalidError, WeighbridgeError
from weighbridge.gateway.admission import INFERENCE_PATHS
from weighbridge.gateway.catalog.formats import (
    Format,
    Model,
    listed_model,
    public_model,
    read_format,
)
from weighbridge.gateway.errors import model_not_found
from weighbridge.gateway.metrics.access import AccessRecord
from weighbridge.gateway.proxy.answering import Answering, Desk
from weighbridge.gateway.proxy.control import ControlPlanes, ControlVisit, is_control_path
from weighbridge.gateway.proxy.inference import InferenceVisit
from weighbridge.gateway.proxy.replicas import Replicas
from weighbridge.gateway.wire.heads import RequestHead
from weighbridge.gateway.wire.upstream import Upstreams
from weighbridge.gateway.wire.visits import Visit
from weighbridge.gateway.wire.writing import AnswerWriter
from weighbridge.routing.model import EndpointRoute

MODELS_PATH: Final = "/v1/models"
PUBLIC_MODELS_PATH: Final = "/public/v1/models"
WARMING_PATH: Final = "/v1/tcp_warming"
PLAIN_BODY_BYTES_MAX: Final = 64 * 1024
"""Of a body that nobody will read."""
_TEXT_TYPE: Final = b"content-type: text/plain\r\n"


@dataclass(frozen=True, slots=True)
class PublicSite:
    desk: Desk
    replicas: Replicas
    upstreams: Upstreams
    control: ControlPlanes

    def visit(self, head: RequestHead | None, client: AnswerWriter) -> Visit:
        clock, path = self.desk.clock, "" if head is None else head.path
        route = path if path in INFERENCE_PATHS else _route_name(path, head)
        record = AccessRecord(clock.new_uuid(), route, clock.monotonic(), clock.unix_s())
        if head is None:
            return PlainVisit(self.desk, client, record, _nothing)
        if path in INFERENCE_PATHS:
            return InferenceVisit(self.desk, self.replicas, client, record, head)
        if is_control_path(path):
            return ControlVisit(
                self.desk, client, record, head, upstreams=self.upstreams, planes=self.control
            )
        return PlainVisit(self.desk, client, record, lambda made: self._answer(head, made))

    def _answer(self, head: RequestHead, record: AccessRecord) -> "PlainAnswer":
        path = head.path
        if path == WARMING_PATH:
            return {"status": "ok"}
        if path == MODELS_PATH or path.startswith(f"{MODELS_PATH}/"):
            _get_only(head)
            key = self.desk.caller(head, record)
            visible = self.desk.tables().endpoints_of(key.org_id)
            return _models(head, path[len(MODELS_PATH) + 1 :], visible, listed_model)
        if path == PUBLIC_MODELS_PATH or path.startswith(f"{PUBLIC_MODELS_PATH}/"):
            _get_only(head)
            visible = self.desk.tables().public_endpoints()
            return _models(head, path[len(PUBLIC_MODELS_PATH) + 1 :], visible, public_model)
        return None


PlainAnswer = Mapping[str, object] | None
"""None for a path that there is not."""


class PlainVisit(Answering):
    """Answered from memory. The answer is found when the head is there; the body is read over."""

    __slots__ = ("_answer", "_find")

    def __init__(
        self,
        desk: Desk,
        client: AnswerWriter,
        record: AccessRecord,
        find: Callable[[AccessRecord], PlainAnswer],
    ) -> None:
        super().__init__(desk, client, record)
        self._find = find
        self._answer: PlainAnswer = None

    def accept(self) -> int:
        try:
            self._answer = self._find(self.record)
        except WeighbridgeError:
            raise
        except Exception as error:
            raise self.failed(error) from error
        return PLAIN_BODY_BYTES_MAX

    def start(self, body: bytes) -> None:
        if self._answer is None:
            self.reply(404, _TEXT_TYPE, b"")
        else:
            self.reply_json(self._answer)


def _nothing(_record: AccessRecord) -> PlainAnswer:
    return None


def _route_name(path: str, head: RequestHead | None) -> str:
    """Of a bounded set, as it labels figures; also keeps callers' ids out of the log."""
    if path == WARMING_PATH:
        return path
    if path.startswith((MODELS_PATH, PUBLIC_MODELS_PATH)):
        return MODELS_PATH if path.startswith(MODELS_PATH) else PUBLIC_MODELS_PATH
    if is_control_path(path):
        return f"/{path[1:].partition('/')[0]}"
    return "malformed" if head is None else "unrouted"


def _get_only(head: RequestHead) -> None:
    if head.method != "GET":
        raise InvalidError("This path takes GET only", code="method_not_allowed")


def _models(
    head: RequestHead,
    name: str,
    visible: Sequence[EndpointRoute],
    write: Callable[[EndpointRoute, Format], Model],
) -> Model:
    """All of them, or the one that is named in the path."""
    wanted = read_format(_format_of(head.target))
    if not name:
        return {"object": "list", "data": [write(endpoint, wanted) for endpoint in visible]}
    model = unquote(name)
    found = next((endpoint for endpoint in visible if endpoint.endpoint_id == model), None)
    if found is None:
        raise model_not_found(model)
    return write(found, wanted)


def _format_of(target: str) -> str | None:
    values = parse_qs(target.partition("?")[2]).get("format")
    return values[-1] if values else None
