"""Read what a forecast needs, in one transaction that writes nothing."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from weighbridge.accounts.model import Org
from weighbridge.registry.model import ModelVersion
from weighbridge.registry.names import VersionName
from weighbridge.replicas import store as replica_store
from weighbridge.rollouts import service, store
from weighbridge.rollouts.canaries.rules import check_canary
from weighbridge.rollouts.forecast.model import History, Outlook
from weighbridge.rollouts.forecast.store import history
from weighbridge.rollouts.model import RolloutLimits, RolloutStatus
from weighbridge.storage.database import Transaction


@dataclass(frozen=True, slots=True)
class Ground:
    """What a forecast stands on: the endpoint as it is, how long its replicas took, and the version asked for."""

    outlook: Outlook
    history: History
    version: ModelVersion
    digest: str
    ahead: int


async def ground(
    tx: Transaction,
    org: Org,
    endpoint_id: str,
    name: VersionName,
    *,
    deployment_id: str,
    now: datetime,
    queue_max: int,
    limits: RolloutLimits,
    traffic_percent: int | None = None,
) -> Ground:
    """Raises exactly what `service.deploy` would raise now; changes and locks nothing."""
    endpoint, version = await service.candidate(tx, org, endpoint_id, name, lock=False)
    if traffic_percent is not None:
        check_canary(endpoint)
    digest = service.deployable_digest(version)
    open_now = await store.open_of(tx, endpoint_id)
    ahead = service.ahead_of_new(endpoint, open_now, queue_max=queue_max)
    new = service.waiting_deployment(
        version,
        digest,
        endpoint_id=endpoint_id,
        reference=str(name.ref),
        deployment_id=deployment_id,
        now=now,
    )
    digest_now = await store.settings_digest(tx, version.arch_id)
    new = replace(new, settings_digest=digest_now, traffic_percent=traffic_percent)
    base_id = endpoint.base_deployment_id
    active = ahead[0] if ahead and ahead[0].status is not RolloutStatus.NOT_STARTED else None
    active_base_id = None if active is None else active.base_deployment_id
    outlook = Outlook(
        endpoint=endpoint,
        queue=(*ahead, new),
        base=None if base_id is None else await store.find(tx, base_id),
        active_base=None if active_base_id is None else await store.find(tx, active_base_id),
        replicas=await replica_store.of_endpoint(
            tx, endpoint_id, failed_since=now - timedelta(seconds=limits.failures_window_s)
        ),
    )
    return Ground(outlook, await history(tx, endpoint_id), version, digest, len(ahead))
