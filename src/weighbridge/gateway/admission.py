"""From an authenticated body to an admitted request: what is asked, of which endpoint, in the engine's terms."""

from typing import Final

import msgspec

from weighbridge.gateway.affinity.keys import affinity_key
from weighbridge.gateway.answers.rendering import AnswerIdentity
from weighbridge.gateway.errors import model_not_found
from weighbridge.gateway.limits.estimate import TokenEstimate, estimate_tokens
from weighbridge.gateway.requests.checks import check_request
from weighbridge.gateway.requests.content import BODY_BYTES_MAX, read_object
from weighbridge.gateway.requests.headers import NEWEST_PATCH, queue_threshold_s, version_patch
from weighbridge.gateway.requests.plain import estimate_plain, read_plain, write_plain
from weighbridge.gateway.requests.reading import read_request
from weighbridge.gateway.requests.shapes import (
    ChatRequest,
    CompletionRequest,
    InferenceRequest,
    StreamOptions,
)
from weighbridge.gateway.requests.writing import Body, engine_body, write_body
from weighbridge.gateway.table import Tables
from weighbridge.routing.model import EndpointRoute, KeyEntry, ReplicaRoute
from weighbridge.routing.options import Affinity
from weighbridge.structs import Frozen

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"
_PLAIN_TYPES: Final = frozenset({"application/json", "", "application/json; charset=utf-8"})
INFERENCE_PATHS: Final = frozenset({CHAT_PATH, COMPLETIONS_PATH})


class Admitted(Frozen, frozen=True):
    """A request that may go to a replica. `path` is the engine's path too."""

    path: str
    is_chat: bool
    endpoint: EndpointRoute
    rest: bytes
    """The engine's body but for its model (`writing.write_body`)."""
    stream: bool
    tokens: TokenEstimate
    tier_used: str | None = None
    top_logprobs: int = 0
    affinity: str | None = None
    """What it has in common with requests that had better go to the same replica."""
    shows_usage: bool = True
    queue_max_s: float | None = None
    """With a longer queue its caller would rather be refused."""

    @property
    def body(self) -> Body:
        """The engine's body without its model, as values."""
        body: Body = msgspec.json.decode(b"{" + self.rest.removeprefix(b","))
        return body

    def answer_id(self, request_id: str) -> str:
        return ("chatcmpl-" if self.is_chat else "cmpl-") + request_id

    def identity(
        self, replica: ReplicaRoute, request_id: str, created_unix_s: float
    ) -> AnswerIdentity:
        """Whose answer it will be when this replica gives it."""
        return AnswerIdentity(
            ("chatcmpl-" if self.is_chat else "cmpl-") + request_id,
            self.is_chat,
            self.endpoint.endpoint_id,
            replica.fingerprint,
            replica.served_name,
            created_unix_s,
            self.tier_used,
            self.top_logprobs,
            self.shows_usage,
        )


def admit(
    path: str,
    body: bytes,
    *,
    content_type: str,
    content_encoding: str,
    tables: Tables,
    key: KeyEntry,
    patch: str | None = None,
    queue_threshold: str | None = None,
) -> Admitted:
    """`patch` and `queue_threshold` are header fields (`requests.headers`).

    Raises InvalidError, LimitError (413) or NotFoundError; the engine hears nothing of such requests.
    """
    rules = NEWEST_PATCH if patch is None else version_patch(patch)
    plain = (
        path == CHAT_PATH
        and queue_threshold is None
        and not content_encoding
        and content_type in _PLAIN_TYPES
        and len(body) <= BODY_BYTES_MAX
    )
    if plain and (admitted := _admit_plain(body, tables, key)) is not None:
        return admitted
    content = read_object(body, content_type, content_encoding)
    request = _read(path, content)
    endpoint = tables.endpoint(request.model, key.org_id)
    if endpoint is None:
        raise model_not_found(request.model)
    check_request(request, endpoint, rules)
    written = engine_body(request)
    return Admitted(
        path=path,
        is_chat=path == CHAT_PATH,
        endpoint=endpoint,
        rest=write_body(written),
        stream=request.stream is True,
        tokens=estimate_tokens(written),
        tier_used=_tier_used(request),
        top_logprobs=_top_logprobs(request),
        affinity=affinity_key(request, endpoint.affinity),
        shows_usage=_shows_usage(request.stream_options),
        queue_max_s=queue_threshold_s(queue_threshold, _tier(request)),
    )


def _admit_plain(body: bytes, tables: Tables, key: KeyEntry) -> Admitted | None:
    """None for what has to be looked at in full."""
    request = read_plain(body)
    if request is None or not _shows_usage(request.stream_options):
        return None
    endpoint = tables.endpoint(request.model, key.org_id)
    if endpoint is None or endpoint.affinity is Affinity.PREFIX:
        return None
    rest = write_plain(request, body)
    if rest is None:
        return None
    return Admitted(
        CHAT_PATH, True, endpoint, rest, request.stream is True, estimate_plain(request)
    )


def _read(path: str, content: dict[str, object]) -> InferenceRequest:
    if path == CHAT_PATH:
        return read_request(content, ChatRequest)
    return read_request(content, CompletionRequest)


def _tier(request: InferenceRequest) -> str | None:
    return request.service_tier if isinstance(request, ChatRequest) else None


def _tier_used(request: InferenceRequest) -> str | None:
    """All requests are served alike; the member appears only for those that left the choice to us."""
    return "default" if _tier(request) == "auto" else None


def _shows_usage(options: StreamOptions | None) -> bool:
    """A stream ends with its usage unless the caller says that it is not wanted."""
    return options is None or options.include_usage is not False


def _top_logprobs(request: InferenceRequest) -> int:
    asked = request.top_logprobs if isinstance(request, ChatRequest) else request.logprobs
    return asked or 0
