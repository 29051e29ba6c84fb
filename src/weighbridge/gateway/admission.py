"""From an authenticated body to an admitted request: what is asked, of which endpoint, in the engine's terms."""

from msgspec import Struct

from weighbridge.gateway.affinity.keys import affinity_key
from weighbridge.gateway.answers.rendering import AnswerIdentity
from weighbridge.gateway.errors import model_not_found
from weighbridge.gateway.requests.checks import check_request
from weighbridge.gateway.requests.content import read_object
from weighbridge.gateway.requests.reading import read_request
from weighbridge.gateway.requests.shapes import ChatRequest, CompletionRequest, InferenceRequest
from weighbridge.gateway.requests.writing import Body, engine_body
from weighbridge.gateway.table import Tables
from weighbridge.routing.model import EndpointRoute, KeyEntry, ReplicaRoute

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
INFERENCE_PATHS = frozenset({CHAT_PATH, COMPLETIONS_PATH})


class Admitted(Struct, frozen=True):
    """A request that may go to a replica. `path` is the engine's path too."""

    path: str
    endpoint: EndpointRoute
    body: Body
    stream: bool
    tier_used: str | None
    top_logprobs: int
    affinity: str | None = None
    """What it has in common with requests that had better go to the same replica."""

    @property
    def is_chat(self) -> bool:
        return self.path == CHAT_PATH

    def answer_id(self, request_id: str) -> str:
        return ("chatcmpl-" if self.is_chat else "cmpl-") + request_id

    def identity(
        self, replica: ReplicaRoute, request_id: str, created_unix_s: float
    ) -> AnswerIdentity:
        """Whose answer it will be when this replica gives it."""
        return AnswerIdentity(
            answer_id=self.answer_id(request_id),
            is_chat=self.is_chat,
            endpoint_id=self.endpoint.endpoint_id,
            fingerprint=replica.fingerprint,
            served_name=replica.served_name,
            created_unix_s=created_unix_s,
            tier_used=self.tier_used,
            top_logprobs=self.top_logprobs,
        )


def admit(
    path: str,
    body: bytes,
    *,
    content_type: str,
    content_encoding: str,
    tables: Tables,
    key: KeyEntry,
) -> Admitted:
    """Raises InvalidError, LimitError (413) or NotFoundError; the engine hears nothing of such requests."""
    content = read_object(body, content_type, content_encoding)
    request = _read(path, content)
    endpoint = tables.endpoint(request.model, key.org_id)
    if endpoint is None:
        raise model_not_found(request.model)
    check_request(request, endpoint)
    return Admitted(
        path=path,
        endpoint=endpoint,
        body=engine_body(request),
        stream=request.stream is True,
        tier_used=_tier_used(request),
        top_logprobs=_top_logprobs(request),
        affinity=affinity_key(request, endpoint.affinity),
    )


def _read(path: str, content: dict[str, object]) -> InferenceRequest:
    if path == CHAT_PATH:
        return read_request(content, ChatRequest)
    return read_request(content, CompletionRequest)


def _tier_used(request: InferenceRequest) -> str | None:
    """All requests are served alike; the member appears only for those that left the choice to us."""
    asked_auto = isinstance(request, ChatRequest) and request.service_tier == "auto"
    return "default" if asked_auto else None


def _top_logprobs(request: InferenceRequest) -> int:
    asked = request.top_logprobs if isinstance(request, ChatRequest) else request.logprobs
    return asked or 0
