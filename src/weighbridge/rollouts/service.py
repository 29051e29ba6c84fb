"""What callers may ask of rollouts: deploy a version, cancel, go back, and see what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from weighbridge.accounts.model import Org
from weighbridge.endpoints import service as endpoint_service
from weighbridge.endpoints.model import Endpoint, QueuePolicy
from weighbridge.errors import ConflictError, InvalidError, LimitError, NotFoundError
from weighbridge.receipts import service as receipts
from weighbridge.registry import service as registry_service
from weighbridge.registry.model import ModelVersion, SyncStatus
from weighbridge.registry.names import VersionName
from weighbridge.replicas import store as replica_store
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts import store
from weighbridge.rollouts.canaries.rules import check_canary
from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.rollouts.telling import deployment_events, submitted
from weighbridge.storage.counters import next_value
from weighbridge.storage.database import Transaction

DEPLOYMENTS_LISTED = 20
"""How many deployments of an endpoint are shown; those not finished and the one that serves are always among them."""


async def deploy(
    tx: Transaction,
    org: Org,
    endpoint_id: str,
    name: VersionName,
    *,
    deployment_id: str,
    now: datetime,
    queue_max: int,
    traffic_percent: int | None = None,
    asked_by: str | None = None,
) -> Deployment:
    """Queue the rollout of a version; the reference is resolved here, once (R7, R8). `asked_by`: a key's id.

    Raises NotFoundError for an endpoint or version that is absent or another org's, InvalidError for a
    version of another architecture, ConflictError for one whose sync is not done, LimitError when the queue
    is full. With `traffic_percent` (1 to 99) it stays a canary until it is promoted; ConflictError where there
    is nothing to share the requests with, or no room for two versions. Lock order: the endpoint's row first,
    as everywhere.
    """
    endpoint, version = await candidate(tx, org, endpoint_id, name, lock=True)
    if traffic_percent is not None:
        check_canary(endpoint)
    return await _queue(
        tx,
        version,
        endpoint,
        str(name.ref),
        deployment_id=deployment_id,
        now=now,
        queue_max=queue_max,
        traffic_percent=traffic_percent,
        asked_by=asked_by,
    )


async def candidate(
    tx: Transaction, org: Org, endpoint_id: str, name: VersionName, *, lock: bool
) -> tuple[Endpoint, ModelVersion]:
    """The endpoint and the version that `deploy` would take; raises as it does, but for the sync and the queue."""
    if name.org != org.name:
        raise NotFoundError(f"Model version {name} was not found.", param="model")
    endpoint = await endpoint_service.get(tx, endpoint_id, org_id=org.id, lock=lock)
    if name.arch != endpoint.arch_id:
        raise InvalidError(
            f"Endpoint {endpoint_id} serves {endpoint.arch_id}; {name} is a version of {name.arch}. "
            "Deploy it to an endpoint of its own architecture.",
            code="model_architecture_mismatch",
            param="model",
        )
    return endpoint, await registry_service.resolve(tx, org.id, name.arch, name.ref)


async def _queue(
    tx: Transaction,
    version: ModelVersion,
    endpoint: Endpoint,
    reference: str,
    *,
    deployment_id: str,
    now: datetime,
    queue_max: int,
    traffic_percent: int | None = None,
    asked_by: str | None,
) -> Deployment:
    digest = deployable_digest(version)
    open_now = await store.open_of(tx, endpoint.id)
    ahead = ahead_of_new(endpoint, open_now, queue_max=queue_max)
    for one in open_now:
        if one not in ahead:
            await record(tx, one, _superseded(one, deployment_id, now), now)
    reason = f"queued behind {ahead[-1].id}" if ahead else "queued"
    new = waiting_deployment(
        version,
        digest,
        endpoint_id=endpoint.id,
        reference=reference,
        deployment_id=deployment_id,
        now=now,
    )
    queued = replace(new, reason=reason, traffic_percent=traffic_percent)
    await store.add(tx, queued, await next_value(tx, "deployments"))
    told = [submitted(queued, asked_by=asked_by)]
    await receipts.tell(tx, deployment_id, endpoint.id, told)
    return await deployment(tx, deployment_id, org_id=None)


async def record(tx: Transaction, before: Deployment, after: Deployment, now: datetime) -> None:
    """Write a deployment's change, and tell its receipt."""
    await store.save(tx, before, after, now)
    events = deployment_events(before, after, None, now)
    await receipts.tell(tx, before.id, before.endpoint_id, events)


def deployable_digest(version: ModelVersion) -> str:
    """The digest of a version whose sync is done; ConflictError for another (R8)."""
    if version.status is not SyncStatus.DONE or version.manifest_digest is None:
        raise ConflictError(
            f"Version {version.number} of {version.arch_id} cannot be deployed: its sync is "
            f"{version.status.value}. Deploy it once its sync_status is done.",
            code="version_not_done",
            param="model",
        )
    return version.manifest_digest


def ahead_of_new(
    endpoint: Endpoint, open_now: Sequence[Deployment], *, queue_max: int
) -> list[Deployment]:
    """Those of the open deployments behind which a new one queues; LimitError when too many wait.

    With `latest_wins` those that wait give way instead.
    """
    waiting = [d for d in open_now if d.status is RolloutStatus.NOT_STARTED]
    if endpoint.queue_policy is QueuePolicy.LATEST_WINS:
        return [d for d in open_now if d not in waiting]
    if len(waiting) >= queue_max:
        raise LimitError(
            f"{len(waiting)} deployments wait on endpoint {endpoint.id} already; the limit is "
            f"{queue_max}. Wait until some have started, or cancel one.",
            code="deployment_queue_full",
        )
    return list(open_now)


def waiting_deployment(
    version: ModelVersion,
    digest: str,
    *,
    endpoint_id: str,
    reference: str,
    deployment_id: str,
    now: datetime,
) -> Deployment:
    return Deployment(
        id=deployment_id,
        endpoint_id=endpoint_id,
        org_id=version.org_id,
        arch_id=version.arch_id,
        version_id=version.id,
        version_number=version.number,
        digest=digest,
        fingerprint=registry_service.fingerprint(digest, version.fingerprint_suffix),
        reference=reference,
        status=RolloutStatus.NOT_STARTED,
        reason="",
        error_message=None,
        base_deployment_id=None,
        replicas=0,
        max_unavailable=0,
        max_surge=0,
        updated_replicas=0,
        updated_max=0,
        failures=0,
        restored_max=0,
        restore_failures=0,
        cancel_requested=False,
        created_at=now,
        updated_at=now,
        started_at=None,
        progress_at=None,
        finished_at=None,
        revision=1,
    )


def _superseded(waiting: Deployment, by_id: str, now: datetime) -> Deployment:
    words = f"superseded by {by_id}"
    return replace(
        waiting,
        status=RolloutStatus.CANCELLED,
        reason=words,
        error_message=words,
        cancel_requested=True,
        finished_at=now,
    )


async def deployment(tx: Transaction, deployment_id: str, *, org_id: str | None) -> Deployment:
    """One deployment; NotFoundError when it is absent or another org's (`org_id` None: the operator asks)."""
    found = await store.find(tx, deployment_id, org_id=org_id)
    if found is None:
        raise NotFoundError(f"Deployment {deployment_id} was not found.")
    return found


async def deployments_of(
    tx: Transaction, endpoint_id: str, *, limit: int = DEPLOYMENTS_LISTED
) -> list[Deployment]:
    """The active deployment, those that wait in their order, the one that serves, then history newest first."""
    listed = await store.open_of(tx, endpoint_id)
    serving_id = await store.base_of(tx, endpoint_id)
    serving = None if serving_id is None else await store.find(tx, serving_id)
    if serving is not None:
        listed.append(serving)
    known = {d.id for d in listed}
    history = await store.newest_of(tx, endpoint_id, limit + len(listed))
    listed += [d for d in history if d.id not in known][: max(0, limit - len(listed))]
    return listed


@dataclass(frozen=True, slots=True)
class DeploymentDetail:
    """A deployment, the version it started from, and the endpoint's replicas: (version, state, how many)."""

    deployment: Deployment
    base_version: int | None
    replicas: Sequence[tuple[int, ReplicaState, int]]
    receipt_head: str | None = None
    """The last hash of its receipt, once that is sealed."""


async def detail(tx: Transaction, deployment_id: str, *, org_id: str) -> DeploymentDetail:
    """As `deployment`, with what one needs to follow it."""
    found = await deployment(tx, deployment_id, org_id=org_id)
    base_id = found.base_deployment_id
    base = None if base_id is None else await store.find(tx, base_id)
    counts = await replica_store.counts_of(tx, found.endpoint_id)
    head = await receipts.sealed_head(tx, deployment_id)
    return DeploymentDetail(found, None if base is None else base.version_number, counts, head)


async def page(
    tx: Transaction,
    org_id: str,
    *,
    endpoint_id: str | None,
    statuses: Sequence[RolloutStatus],
    after_id: str | None,
    limit: int,
) -> list[Deployment]:
    """An org's deployments, newest first, from the one after `after_id` on.

    NotFoundError for an endpoint that is absent or another org's, InvalidError for an `after_id` that is.
    """
    if endpoint_id is not None:
        await endpoint_service.get(tx, endpoint_id, org_id=org_id)
    before = None
    if after_id is not None:
        before = await store.sequence_of(tx, org_id, after_id)
        if before is None:
            raise InvalidError(
                "page_token is not one of this list; begin again without it.",
                code="invalid_page_token",
                param="page_token",
            )
    return await store.newest_of_org(
        tx, org_id, endpoint_id=endpoint_id, statuses=statuses, before=before, limit=limit
    )


@dataclass(frozen=True, slots=True)
class Scaling:
    """What scaling changed; `active` has its own size until it ends (R18), `waiting` starts with the new one."""

    before: Endpoint
    after: Endpoint
    active: Deployment | None
    waiting: Deployment | None


async def scale(
    tx: Transaction, org: Org, endpoint_id: str, replicas: int, *, now: datetime
) -> Scaling:
    """Change the number of replicas within the operator's maximum; upkeep follows when no rollout is on."""
    before, after = await endpoint_service.scale(
        tx, endpoint_id, org_id=org.id, replicas=replicas, now=now
    )
    pending = await store.open_of(tx, endpoint_id)
    active = next((d for d in pending if d.status is not RolloutStatus.NOT_STARTED), None)
    waiting = next((d for d in pending if d.status is RolloutStatus.NOT_STARTED), None)
    return Scaling(before, after, active, waiting)


async def cancel(
    tx: Transaction, deployment_id: str, *, org_id: str | None, now: datetime
) -> Deployment:
    """Cancel a deployment that is not finished; asking twice is the same as asking once.

    One that waits is cancelled at once; a running one goes back to the version before it and then is.
    ConflictError when it is final already or goes back for another reason.
    """
    found = await deployment(tx, deployment_id, org_id=org_id)
    await store.lock_endpoint(tx, found.endpoint_id)
    current = await deployment(tx, deployment_id, org_id=org_id)
    if current.cancel_requested:
        return current
    if current.status.final or current.status is RolloutStatus.ROLLING_BACK:
        raise ConflictError(
            f"Deployment {deployment_id} is {current.status.value} and can no longer be cancelled.",
            code="deployment_not_cancellable",
        )
    wanted = replace(current, cancel_requested=True)
    if current.status is RolloutStatus.NOT_STARTED:
        wanted = replace(
            wanted,
            status=RolloutStatus.CANCELLED,
            reason="cancelled before it started",
            error_message="cancelled before it started",
            finished_at=now,
        )
    await record(tx, current, wanted, now)
    return await deployment(tx, deployment_id, org_id=org_id)


async def rollback(
    tx: Transaction,
    org: Org,
    endpoint_id: str,
    *,
    deployment_id: str,
    now: datetime,
    queue_max: int,
    asked_by: str | None = None,
) -> Deployment:
    """Queue the rollout of the version that served before the one that serves now.

    ConflictError when a deployment is not finished (cancel that one instead), or when no earlier version of
    the endpoint still exists.
    """
    endpoint = await endpoint_service.get(tx, endpoint_id, org_id=org.id, lock=True)
    if pending := await store.open_of(tx, endpoint_id):
        raise ConflictError(
            f"Deployment {pending[0].id} on endpoint {endpoint_id} is {pending[0].status.value}; "
            "cancel it to return to the version before it.",
            code="deployment_in_progress",
        )
    serving_id = await store.base_of(tx, endpoint_id)
    serving = None if serving_id is None else await store.find(tx, serving_id)
    earlier = None if serving is None else await store.done_before(tx, serving)
    if earlier is None:
        raise ConflictError(
            f"Endpoint {endpoint_id} has served no other version to go back to.",
            code="nothing_to_roll_back_to",
        )
    try:
        version = await registry_service.resolve(
            tx, org.id, earlier.arch_id, earlier.version_number
        )
    except NotFoundError as error:
        words = f"Version {earlier.version_number}, served by endpoint {endpoint_id} before, was deleted."
        raise ConflictError(words, code="nothing_to_roll_back_to") from error
    return await _queue(
        tx,
        version,
        endpoint,
        str(version.number),
        deployment_id=deployment_id,
        now=now,
        queue_max=queue_max,
        asked_by=asked_by,
    )
