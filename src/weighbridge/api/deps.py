"""What routes are given: the parts of the control plane, the caller, and what he was answered before."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, TypeVar

import aiohttp
from fastapi import Depends, Header, Request
from pydantic import BaseModel

from weighbridge.accounts.model import ApiKey, Org
from weighbridge.api.errors import InFlightError, KeyReusedError
from weighbridge.api.inspection.quota import CallQuota
from weighbridge.clock import Clock
from weighbridge.engines.base import Engine
from weighbridge.ingest.s3 import S3Access
from weighbridge.routing.hosts.view import Gateways
from weighbridge.runtimes.base import Runtime
from weighbridge.settings import Settings
from weighbridge.storage import idempotency
from weighbridge.storage.database import Database, Transaction
from weighbridge.usage.metrics import Allowance
from weighbridge.weights.base import WeightStore


@dataclass(frozen=True, slots=True)
class Parts:
    """Built once by the server and handed to `create_app`; `wake` names a reconciler to look now."""

    database: Database
    settings: Settings
    clock: Clock
    wake: Callable[[str], None]
    pepper: bytes
    store: WeightStore
    s3: S3Access
    runtime: Runtime
    engines: Mapping[str, Engine]
    gateways: Gateways
    probe_session: aiohttp.ClientSession | None = None
    """For questions to replicas; without one none are asked."""
    doctor_calls: CallQuota = field(
        default_factory=lambda: CallQuota(calls_max=6, window_s=60.0, running_max=4)
    )
    diff_calls: CallQuota = field(
        default_factory=lambda: CallQuota(calls_max=30, window_s=60.0, running_max=2)
    )
    forecast_calls: CallQuota = field(
        default_factory=lambda: CallQuota(calls_max=30, window_s=60.0, running_max=2)
    )
    trial_calls: CallQuota = field(
        default_factory=lambda: CallQuota(calls_max=12, window_s=60.0, running_max=4)
    )
    """Of acceptance probes, by endpoint: each asks a replica that serves."""
    metrics_asked: Allowance = field(default_factory=Allowance)


@dataclass(frozen=True, slots=True)
class Member:
    """The holder of a management key: acts for one org (T1)."""

    key: ApiKey
    org: Org


@dataclass(frozen=True, slots=True)
class Consumer:
    """The holder of an inference key: sees the metrics of its org."""

    key: ApiKey
    org: Org


@dataclass(frozen=True, slots=True)
class Operator:
    """The holder of an admin key."""

    key: ApiKey


def parts_of(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


def member_of(request: Request) -> Member:
    """Set by `access.ManagementRoute` before anything else of the request is looked at."""
    caller = request.state.caller
    assert isinstance(caller, Member)
    return caller


def consumer_of(request: Request) -> Consumer:
    """Set by `access.InferenceRoute`, likewise."""
    caller = request.state.caller
    assert isinstance(caller, Consumer)
    return caller


# FastAPI gives each one that is no coroutine to a thread, which costs more than what it does.
async def _control(request: Request) -> Parts:
    return parts_of(request)


async def _management(request: Request) -> Member:
    return member_of(request)


async def _inference(request: Request) -> Consumer:
    return consumer_of(request)


Control = Annotated[Parts, Depends(_control)]
Management = Annotated[Member, Depends(_management)]
Inference = Annotated[Consumer, Depends(_inference)]

Answered = TypeVar("Answered", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Once:
    """A request's Idempotency-Key at work (D7); without one, nothing is looked up or kept.

    Only what succeeded is kept: a refused request has done nothing, so it may be tried again.
    """

    key: str | None
    org_id: str
    request_digest: bytes
    now: datetime

    async def answer(self, tx: Transaction, kind: type[Answered]) -> Answered | None:
        """What this very request was answered before; None when it is to be done now."""
        if self.key is None:
            return None
        if not await idempotency.hold(tx, self.org_id, self.key):
            raise InFlightError(
                "The first request with this Idempotency-Key has not ended yet; ask again shortly."
            )
        kept = await idempotency.find(tx, self.org_id, self.key, now=self.now)
        if kept is None:
            return None
        if kept.request_digest != self.request_digest:
            raise KeyReusedError(
                "This Idempotency-Key was used with another request; take a new one for each request.",
                param="Idempotency-Key",
            )
        return kind.model_validate_json(kept.answer)

    async def keep(self, tx: Transaction, answer: BaseModel) -> None:
        if self.key is not None:
            kept = idempotency.KeptAnswer(self.request_digest, answer.model_dump_json())
            await idempotency.keep(tx, self.org_id, self.key, kept, now=self.now)


async def once_of(
    request: Request,
    control: Control,
    caller: Management,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[!-~]{1,255}$",
            description="The same key and request within 24 hours get the same answer, and nothing is done again.",
        ),
    ] = None,
) -> Once:
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    digest.update(await request.body())
    return Once(idempotency_key, caller.org.id, digest.digest(), control.clock.now())


AtMostOnce = Annotated[Once, Depends(once_of)]
