"""What routes are given: the parts of the control plane, and the caller."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from weighbridge.accounts.model import ApiKey, Org
from weighbridge.api.inspection.quota import CallQuota
from weighbridge.clock import Clock
from weighbridge.engines.base import Engine
from weighbridge.ingest.s3 import S3Access
from weighbridge.routing.acks import GatewayView
from weighbridge.runtimes.base import Runtime
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
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
    doctor_calls: CallQuota = field(
        default_factory=lambda: CallQuota(calls_max=6, window_s=60.0, running_max=4)
    )
    diff_calls: CallQuota = field(
        default_factory=lambda: CallQuota(calls_max=30, window_s=60.0, running_max=2)
    )


@dataclass(frozen=True, slots=True)
class Member:
    """The holder of a management key: acts for one org (T1)."""

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


Control = Annotated[Parts, Depends(parts_of)]
Management = Annotated[Member, Depends(member_of)]
