"""What routes are given: the parts of the control plane, and the caller."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from weighbridge.accounts.model import ApiKey, Org
from weighbridge.clock import Clock
from weighbridge.engines.base import Engine
from weighbridge.ingest.s3 import S3Access
from weighbridge.routing.acks import GatewayView
from weighbridge.runtimes.base import Runtime
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.usage.metrics import Allowance
from weighbridge.weights.filesystem import FilesystemStore


@dataclass(frozen=True, slots=True)
class Parts:
    """Built once by the server and handed to `create_app`; `wake` names a reconciler to look now."""

    database: Database
    settings: Settings
    clock: Clock
    wake: Callable[[str], None]
    pepper: bytes
    store: FilesystemStore
    s3: S3Access
    runtime: Runtime
    engines: Mapping[str, Engine]
    acks: GatewayView
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


Control = Annotated[Parts, Depends(parts_of)]
Management = Annotated[Member, Depends(member_of)]
Inference = Annotated[Consumer, Depends(consumer_of)]
