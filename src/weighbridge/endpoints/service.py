"""What callers may ask of endpoints."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from weighbridge.accounts.model import Org
from weighbridge.accounts.names import quoted
from weighbridge.endpoints import store
from weighbridge.endpoints.gate import GateOptions
from weighbridge.endpoints.model import Endpoint, QueuePolicy
from weighbridge.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from weighbridge.registry import service as registry
from weighbridge.routing.limits import UsageLimits
from weighbridge.routing.options import GatewayOptions
from weighbridge.storage.database import Transaction

ENDPOINT_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,126}", re.ASCII)
REPLICAS_MAX = 1024


def is_endpoint_id(text: str) -> bool:
    return ENDPOINT_ID.fullmatch(text) is not None


def check_shape(
    *, replicas: int, max_unavailable: int, max_surge: int, allow_downtime: bool = False
) -> None:
    """Refuse a shape with which no rollout could move, or that one could stop altogether (R4)."""
    if not 1 <= replicas <= REPLICAS_MAX:
        raise _bad_shape(f"replicas must be 1 to {REPLICAS_MAX}, not {replicas}.", "replicas")
    if not 0 <= max_surge <= REPLICAS_MAX:
        raise _bad_shape(f"max_surge must be 0 to {REPLICAS_MAX}, not {max_surge}.", "max_surge")
    if max_unavailable < 0:
        raise _bad_shape(
            f"max_unavailable must be 0 or more, not {max_unavailable}.", "max_unavailable"
        )
    if max_unavailable > replicas:
        raise _bad_shape(
            f"max_unavailable {max_unavailable} is more than there are replicas ({replicas}).",
            "max_unavailable",
        )
    if max_unavailable == replicas and not allow_downtime:
        raise _bad_shape(
            f"With {replicas} replica(s) and max_unavailable {max_unavailable} a rollout might stop all of them "
            f"at once; max_unavailable can be at most {replicas - 1} here, unless allow_downtime is set.",
            "max_unavailable",
        )
    if max_unavailable == 0 and max_surge == 0:
        raise _bad_shape(
            "With max_unavailable 0 and max_surge 0 a rollout may neither stop an old replica nor start a new one; "
            "set one of them to at least 1.",
            "max_surge",
        )


def check_replicas_max(replicas_max: int | None) -> None:
    if replicas_max is not None and not 1 <= replicas_max <= REPLICAS_MAX:
        raise InvalidError(
            f"replicas_max must be 1 to {REPLICAS_MAX}, or null, not {replicas_max}.",
            code="invalid_replicas_max",
            param="replicas_max",
        )


def _bad_shape(message: str, param: str) -> InvalidError:
    return InvalidError(message, code="impossible_rollout", param=param)


async def create(
    tx: Transaction,
    org: Org,
    endpoint_id: str,
    arch_id: str,
    *,
    replicas: int = 1,
    max_unavailable: int = 0,
    max_surge: int = 1,
    replicas_max: int | None = None,
    allow_downtime: bool = False,
    queue_policy: QueuePolicy = QueuePolicy.FIFO,
    now: datetime,
) -> Endpoint:
    """An endpoint that serves nothing yet. An id is given out once, even when its endpoint was deleted."""
    if not is_endpoint_id(endpoint_id):
        raise InvalidError(
            f"{quoted(endpoint_id)} is not an endpoint id: 1 to 127 of a-z, 0-9, '.' and '-', "
            "beginning with a letter or digit.",
            code="invalid_endpoint_id",
            param="endpoint_id",
        )
    check_shape(
        replicas=replicas,
        max_unavailable=max_unavailable,
        max_surge=max_surge,
        allow_downtime=allow_downtime,
    )
    check_replicas_max(replicas_max)
    architecture = await registry.architecture(tx, arch_id, lock=True)
    if architecture.org_ids and org.id not in architecture.org_ids:
        raise InvalidError(
            f"Organization {org.name} may not use model architecture {arch_id}; "
            "register the architecture with this org in org_names.",
            code="model_architecture_not_allowed",
            param="model_arch_id",
        )
    endpoint = Endpoint(
        id=endpoint_id,
        org_id=org.id,
        arch_id=arch_id,
        replicas=replicas,
        max_unavailable=max_unavailable,
        max_surge=max_surge,
        base_deployment_id=None,
        created_at=now,
        updated_at=now,
        revision=1,
        replicas_max=replicas_max,
        allow_downtime=allow_downtime,
        queue_policy=queue_policy,
    )
    if not await store.insert_endpoint(tx, endpoint):
        raise ConflictError(
            f"Endpoint id {endpoint_id} is in use or was used before; choose another id.",
            code="endpoint_exists",
            param="endpoint_id",
        )
    return endpoint


async def get(
    tx: Transaction, endpoint_id: str, *, org_id: str | None, lock: bool = False
) -> Endpoint:
    """NotFoundError for an absent, a deleted and another org's endpoint alike (T2); `org_id` None sees all.

    `lock` keeps it unchanged until commit: whoever starts or ends something on it takes the lock first.
    """
    found = (
        await store.find(tx, endpoint_id, org_id=org_id, lock=lock)
        if is_endpoint_id(endpoint_id)
        else None
    )
    if found is None:
        raise NotFoundError(
            f"Endpoint {quoted(endpoint_id)} does not exist or you do not have access to it.",
            code="endpoint_not_found",
            param="endpoint_id",
        )
    return found


async def list_of(tx: Transaction, org_id: str | None) -> Sequence[Endpoint]:
    """By id; of one org, or all."""
    return await store.endpoints_of(tx, org_id)


async def base_versions(tx: Transaction, endpoints: Sequence[Endpoint]) -> Mapping[str, int]:
    """By endpoint id, the number of its last good version; endpoints that never had one are left out."""
    return await store.base_versions(tx, [endpoint.id for endpoint in endpoints])


async def update(
    tx: Transaction,
    endpoint_id: str,
    *,
    replicas: int | None = None,
    max_unavailable: int | None = None,
    max_surge: int | None = None,
    allow_downtime: bool | None = None,
    queue_policy: QueuePolicy | None = None,
    change_limits: Callable[[UsageLimits], UsageLimits] | None = None,
    change_gateway: Callable[[GatewayOptions], GatewayOptions] | None = None,
    change_gate: Callable[[GateOptions], GateOptions] | None = None,
    change_replicas_max: Callable[[int | None], int | None] | None = None,
    now: datetime,
) -> Endpoint:
    """Change what is given; a shape counts from the next rollout on (R18), the rest at once.

    ConflictError for fewer replicas than a rollout under way brings up.
    """
    endpoint = await get(tx, endpoint_id, org_id=None, lock=True)
    changed = replace(
        endpoint,
        replicas=endpoint.replicas if replicas is None else replicas,
        max_unavailable=(endpoint.max_unavailable if max_unavailable is None else max_unavailable),
        max_surge=endpoint.max_surge if max_surge is None else max_surge,
        allow_downtime=endpoint.allow_downtime if allow_downtime is None else allow_downtime,
        queue_policy=endpoint.queue_policy if queue_policy is None else queue_policy,
        limits=endpoint.limits if change_limits is None else change_limits(endpoint.limits),
        gateway=endpoint.gateway if change_gateway is None else change_gateway(endpoint.gateway),
        gate=endpoint.gate if change_gate is None else change_gate(endpoint.gate),
        replicas_max=(
            endpoint.replicas_max
            if change_replicas_max is None
            else change_replicas_max(endpoint.replicas_max)
        ),
        updated_at=now,
    )
    check_replicas_max(changed.replicas_max)
    check_shape(
        replicas=changed.replicas,
        max_unavailable=changed.max_unavailable,
        max_surge=changed.max_surge,
        allow_downtime=changed.allow_downtime,
    )
    if changed.replicas < endpoint.replicas:
        await _refuse_shrinking(tx, changed)
    await store.save_shape(tx, changed)
    return replace(changed, revision=endpoint.revision + 1)


async def scale(
    tx: Transaction, endpoint_id: str, *, org_id: str, replicas: int, now: datetime
) -> tuple[Endpoint, Endpoint]:
    """Change the number of replicas as the endpoint's own org may; the endpoint before and after.

    ForbiddenError where the operator has given no `replicas_max`, InvalidError beyond it or where
    `max_unavailable` leaves no replica that must stay (R4), ConflictError for fewer than a rollout under way
    brings up.
    """
    before = await get(tx, endpoint_id, org_id=org_id, lock=True)
    if before.replicas_max is None:
        raise ForbiddenError(
            f"Endpoint {endpoint_id} is scaled by its operator alone; ask for a replicas_max on it.",
            code="scaling_not_allowed",
        )
    if not 1 <= replicas <= before.replicas_max:
        raise InvalidError(
            f"Endpoint {endpoint_id} can have 1 to {before.replicas_max} replicas, not {replicas}; "
            "its operator can raise replicas_max.",
            code="replicas_out_of_range",
            param="replicas",
        )
    least = before.max_unavailable + (0 if before.allow_downtime else 1)
    if replicas < least:
        raise InvalidError(
            f"Rollouts of endpoint {endpoint_id} may stop {before.max_unavailable} replicas at once, so it needs "
            f"at least {least}; its operator can lower max_unavailable.",
            code="impossible_rollout",
            param="replicas",
        )
    if replicas == before.replicas:
        return before, before
    after = replace(before, replicas=replicas, updated_at=now)
    await _refuse_shrinking(tx, after)
    await store.save_shape(tx, after)
    return before, replace(after, revision=before.revision + 1)


async def _refuse_shrinking(tx: Transaction, wanted: Endpoint) -> None:
    active = await store.active_deployment(tx, wanted.id)
    if active is not None and wanted.replicas < active[1]:
        raise ConflictError(
            f"Deployment {active[0]} is being rolled out to {active[1]} replicas of endpoint {wanted.id}; "
            f"scale down to {wanted.replicas} when it has ended, or cancel it first.",
            code="deployment_in_progress",
            param="replicas",
        )


async def delete(tx: Transaction, endpoint_id: str, *, now: datetime) -> Endpoint:
    """Take an endpoint out of service, for good; ConflictError while a deployment has not ended."""
    endpoint = await get(tx, endpoint_id, org_id=None, lock=True)
    deployment_id = await store.open_deployment(tx, endpoint_id)
    if deployment_id is not None:
        raise ConflictError(
            f"Deployment {deployment_id} has not ended on endpoint {endpoint_id}; "
            "wait for it or cancel it first.",
            code="endpoint_in_use",
            param="endpoint_id",
        )
    await store.bury(tx, endpoint, now)
    return endpoint
