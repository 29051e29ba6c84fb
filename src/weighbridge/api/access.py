"""Who may call a route. The class of a route decides it, before the body is read: no route can forget to ask."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import ApiKey, KeyKind
from weighbridge.api.body import JsonRequest, read_json
from weighbridge.api.deps import Consumer, Member, Operator, Parts, parts_of
from weighbridge.api.errors import MissingKeyError
from weighbridge.storage.database import Transaction

AUTHORIZATION_CHARS_MAX = 512

BEARER = Security(HTTPBearer(scheme_name="BearerAuth", auto_error=False))
"""Documents the scheme in the schema; the routes' classes below enforce it."""


def bearer_text(request: Request) -> str:
    """The key of the one Authorization header; nothing else of a request is looked at for a key."""
    values = request.headers.getlist("authorization")
    if not values:
        raise MissingKeyError("Not authenticated")
    scheme, _, text = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or len(text) > AUTHORIZATION_CHARS_MAX:
        raise accounts.wrong_key()
    return text


async def _authenticate(parts: Parts, tx: Transaction, text: str) -> ApiKey:
    return await accounts.authenticate(tx, parts.pepper, text, parts.clock.now())


async def admit_member(request: Request) -> Member:
    """A management key acts for its org; every other kind of key is a wrong one here (T1)."""
    parts, text = parts_of(request), bearer_text(request)
    async with parts.database.begin() as tx:
        key = await _authenticate(parts, tx, text)
        if not key.kind.manages or key.org_id is None:
            raise accounts.wrong_key()
        return Member(key, await accounts.org_by_id(tx, key.org_id))


async def admit_consumer(request: Request) -> Consumer:
    """An inference key sees what is offered to inference; every other kind of key is a wrong one here (T1)."""
    parts, text = parts_of(request), bearer_text(request)
    async with parts.database.begin() as tx:
        key = await _authenticate(parts, tx, text)
        if not key.kind.infers or key.org_id is None:
            raise accounts.wrong_key()
        return Consumer(key, await accounts.org_by_id(tx, key.org_id))


async def admit_operator(request: Request) -> Operator:
    parts, text = parts_of(request), bearer_text(request)
    async with parts.database.begin() as tx:
        key = await _authenticate(parts, tx, text)
        if key.kind is not KeyKind.ADMIN:
            raise accounts.wrong_key()
        return Operator(key)


# FastAPI's own type of a route's handler.
RouteCall = Callable[[Request], Coroutine[Any, Any, Response]]


def _guarded(
    inner: RouteCall, admit: Callable[[Request], Awaitable[object]], *, reads_body: bool
) -> RouteCall:
    async def handle(request: Request) -> Response:
        request.state.caller = await admit(request)
        if reads_body:
            request = JsonRequest(request.scope, *await read_json(request))
        return await inner(request)

    return handle


class ManagementRoute(APIRoute):
    """A route for management keys; answers leave out what is unknown instead of sending null."""

    def __init__(self, *args: Any, **options: Any) -> None:  # as APIRoute's own forty options
        super().__init__(*args, **{**options, "response_model_exclude_none": True})

    def get_route_handler(self) -> RouteCall:
        return _guarded(
            super().get_route_handler(), admit_member, reads_body=self.body_field is not None
        )


class AdminRoute(APIRoute):
    """A route for admin keys."""

    def get_route_handler(self) -> RouteCall:
        return _guarded(
            super().get_route_handler(), admit_operator, reads_body=self.body_field is not None
        )


class InferenceRoute(APIRoute):
    """A route for inference keys."""

    def get_route_handler(self) -> RouteCall:
        return _guarded(
            super().get_route_handler(), admit_consumer, reads_body=self.body_field is not None
        )
