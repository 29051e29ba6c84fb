"""Carry rollouts forward: load, plan and apply in one short transaction per endpoint; no network, no processes."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice

import structlog

from weighbridge.acceptance import store as acceptance_store
from weighbridge.clock import Clock
from weighbridge.control.wake import Wake
from weighbridge.errors import StaleError
from weighbridge.receipts import service as receipts
from weighbridge.replicas import store as replica_store
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.replicas.telling import replica_events
from weighbridge.rollouts import store
from weighbridge.rollouts.gate import GateLimits
from weighbridge.rollouts.model import Deployment, RolloutLimits, RolloutStatus
from weighbridge.rollouts.moves import (
    Action,
    AdoptReplica,
    DrainReplica,
    StartReplica,
    StopReplica,
    runs,
)
from weighbridge.rollouts.plan import Plan, Seen, plan
from weighbridge.rollouts.steady import steady_plan
from weighbridge.rollouts.telling import deployment_events, gate_event
from weighbridge.routing.model import SLOTS_MAX
from weighbridge.settings import Settings
from weighbridge.storage import lease
from weighbridge.storage.database import Database, Transaction
from weighbridge.usage import store as usage_store
from weighbridge.usage.model import VersionFigures

log = structlog.get_logger()

STEPS_MAX = 8
"""Steps of one endpoint in a row, in a transaction each, before the others have their turn."""
IDLE_S = 5.0
GATE_ROWS_MAX = 5_000
"""Requests of one version that are looked at in one pass: the newest."""
GATE_LOOK_S = 2.0
"""How long at most until the requests of an active rollout are looked at again."""


Fetching = Callable[[str, str, Collection[str]], str]
"""Told of a rollout, its digest and the replicas it replaces, says what of its weights is on the way to their nodes."""


def nothing_fetched(_deployment_id: str, _digest: str, _replica_ids: Collection[str]) -> str:
    return ""


def rollout_limits(settings: Settings) -> RolloutLimits:
    return RolloutLimits(
        min_ready_s=settings.min_ready_s,
        bake_s=settings.bake_s,
        progress_s=settings.rollout_progress_s,
        total_s=settings.rollout_total_s,
        rollback_progress_s=settings.rollback_progress_s,
        capacity_s=settings.capacity_wait_s,
        gate=GateLimits(
            requests_min=settings.gate_requests_min,
            errors_share=settings.gate_errors_share,
            errors_ratio=settings.gate_errors_ratio,
            empty_share=settings.gate_empty_share,
            empty_ratio=settings.gate_empty_ratio,
            ttft_min_s=settings.gate_ttft_min_s,
            ttft_ratio=settings.gate_ttft_ratio,
            ttft_max_s=settings.gate_ttft_max_s,
        ),
    )


class RolloutReconciler:
    """Writes wishes (replica rows) only; the replicas reconciler makes the world match them."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        wake: Wake,
        lease_of: Callable[[], lease.Lease],
        *,
        limits: RolloutLimits,
        fetching: Fetching = nothing_fetched,
    ) -> None:
        self._fetching = fetching
        self._database = database
        self._clock = clock
        self._wake = wake
        self._lease_of = lease_of
        self._limits = limits
        self._epoch: int | None = None

    async def reconcile(self) -> float:
        """One pass over the endpoints that could need something; returns how long nothing will, in seconds."""
        held = self._lease_of()
        async with self._database.begin() as tx:
            await lease.require(tx, held)
            if self._epoch != held.epoch:
                # Someone else led until now, or nobody did.
                await store.rearm_progress(tx, self._clock.now())
            endpoint_ids = await store.restless(tx)
        self._epoch = held.epoch
        pause_s = IDLE_S
        slots = _Slots()
        for endpoint_id in endpoint_ids:
            try:
                pause_s = min(pause_s, await self._settle(endpoint_id, held, slots))
            except StaleError as error:
                # A replica of this endpoint moved on meanwhile; the others need not wait for it.
                log.debug("rollout.stale", endpoint_id=endpoint_id, reason=error.message)
                pause_s = 0.0
        return pause_s

    async def _settle(self, endpoint_id: str, held: lease.Lease, slots: "_Slots") -> float:
        """Step until nothing is left to do now."""
        for _ in range(STEPS_MAX):
            async with self._database.begin() as tx:
                if self._lease_of() != held:
                    raise StaleError("another controller has led since this pass began")
                await lease.require(tx, held)
                step = await _Step.load(tx, endpoint_id, self._clock, self._limits, slots)
                step = replace(step, fetching=step.ask(self._fetching))
                moved, next_at = await step.take(tx)
            if moved:
                self._wake("replicas")
                self._wake("routes")
            else:
                wait_s = IDLE_S if next_at is None else (next_at - step.now).total_seconds()
                return max(0.0, wait_s)
        return 0.0


class _Slots:
    """The free slots of one pass under one lease, lowest first: nobody else gives any meanwhile.

    They are asked for once: all of them for each start would make a pass grow with the square of the fleet.
    What becomes free during the pass is found by the next one.
    """

    def __init__(self) -> None:
        self._free: Iterator[int] | None = None

    async def take(self, tx: Transaction, count: int) -> list[int]:
        """As many as there are, `count` at most; those of a step that fails are not given again in this pass."""
        if self._free is None:
            taken = await replica_store.slots_taken(tx)
            self._free = (slot for slot in range(SLOTS_MAX) if slot not in taken)
        return list(islice(self._free, count))


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of one endpoint inside one transaction."""

    row: store.EndpointRow
    active: Deployment | None
    base: Deployment | None
    replicas: Mapping[str, Replica]
    withdrawn: bool
    figures: Mapping[int, VersionFigures]
    clock: Clock
    now: datetime
    limits: RolloutLimits
    slots: _Slots
    fetching: str = ""

    def ask(self, fetching: Fetching) -> str:
        """What is on its way to the nodes of replicas that serve and are to be replaced."""
        active = self.active
        if active is None or active.status is not RolloutStatus.IN_PROGRESS:
            return ""
        ready = (r for r in self.replicas.values() if r.state is ReplicaState.READY)
        return fetching(active.id, active.digest, [r.id for r in ready if not runs(r, active)])

    @staticmethod
    async def load(
        tx: Transaction, endpoint_id: str, clock: Clock, limits: RolloutLimits, slots: _Slots
    ) -> "_Step":
        now = clock.now()
        row = await store.lock_endpoint(tx, endpoint_id)
        limits = replace(limits, gate=limits.gate.of(row.endpoint.gate))
        active = next(iter(await store.open_of(tx, endpoint_id)), None)
        base_id = row.endpoint.base_deployment_id
        if active is not None and active.status is not RolloutStatus.NOT_STARTED:
            base_id = active.base_deployment_id
        base = None if base_id is None else await store.find(tx, base_id)
        # Until commit no replica fails or is lost behind the back of what is decided here (R2, R10).
        await replica_store.lock_open(tx, endpoint_id)
        waits = active is not None and active.status is RolloutStatus.NOT_STARTED
        gone = waits and active is not None and await store.withdrawn(tx, active)
        replicas = await replica_store.of_endpoint(
            tx, endpoint_id, failed_since=now - timedelta(seconds=limits.failures_window_s)
        )
        by_id = {replica.id: replica for replica in replicas}
        figures = await _figures(tx, active, base, limits)
        return _Step(row, active, base, by_id, gone, figures, clock, now, limits, slots)

    async def take(self, tx: Transaction) -> tuple[bool, datetime | None]:
        """Decide and write; whether anything moved, and when the clock alone will change the answer."""
        if self.active is None:
            return await self._keep(tx)
        seen = Seen(
            deployment=self.active,
            base=self.base,
            endpoint=self.row.endpoint,
            endpoint_deleted=self.row.deleted,
            replicas=tuple(self.replicas.values()),
            withdrawn=self.withdrawn,
            figures=self.figures,
            fetching=self.fetching,
        )
        decision = plan(seen, self.now, self.limits)
        await store.save(tx, self.active, decision.after, self.now)
        await replica_store.count_failures(tx, decision.counted)
        told = await self._act(tx, decision.actions)
        turned = decision.after.status is not self.active.status
        if turned and decision.after.status is RolloutStatus.DONE:
            await store.set_base(tx, self.row.endpoint, self.active.id, self.now)
        if turned and self.figures:
            told.append(gate_event(self.figures, decision.after, self.now))
        events = deployment_events(self.active, decision.after, self.base, self.now)
        began = turned and self.active.status is RolloutStatus.NOT_STARTED
        await receipts.tell(
            tx,
            self.active.id,
            self.row.endpoint.id,
            [*told, *events],
            follow=began and not decision.after.status.final,
        )
        if turned or decision.actions:
            _report(decision)
        look_at = self.now + timedelta(seconds=GATE_LOOK_S) if self.figures else None
        times = [at for at in (decision.next_at, look_at) if at is not None]
        return turned or bool(decision.actions), min(times, default=None)

    async def _keep(self, tx: Transaction) -> tuple[bool, datetime | None]:
        size = 0 if self.row.deleted else self.row.endpoint.replicas
        upkeep = steady_plan(
            self.base,
            tuple(self.replicas.values()),
            size,
            self.now,
            self.limits,
            surge=self.row.endpoint.max_surge,
        )
        await replica_store.count_failures(tx, upkeep.counted)
        told = await self._act(tx, upkeep.actions)
        await receipts.tell_of_replicas(tx, self.row.endpoint.id, told)
        if upkeep.actions:
            log.info(
                "endpoint.upkeep",
                endpoint_id=self.row.endpoint.id,
                reason=upkeep.reason,
                actions=len(upkeep.actions),
            )
        return bool(upkeep.actions), upkeep.next_at

    async def _act(self, tx: Transaction, actions: Sequence[Action]) -> list[receipts.Payload]:
        """Replica rows are written in the order of their ids, so that two writers cannot wait for each other.

        Returns what the receipt is to be told of them.
        """
        after: dict[str, Replica] = {}
        starts: list[Deployment] = []
        for action in actions:
            match action:
                case StartReplica(deployment_id):
                    known = (self.active, self.base)
                    starts += [d for d in known if d is not None and d.id == deployment_id][:1]
                case AdoptReplica(replica_id, deployment_id):
                    after[replica_id] = replace(
                        self.replicas[replica_id], deployment_id=deployment_id
                    )
                case DrainReplica(replica_id):
                    after[replica_id] = self._leaving(replica_id, ReplicaState.DRAINING)
                case StopReplica(replica_id):
                    after[replica_id] = self._leaving(replica_id, ReplicaState.STOPPING)
        told: list[receipts.Payload] = []
        for replica_id in sorted(after):
            before = self.replicas[replica_id]
            await replica_store.save(tx, before, after[replica_id])
            told += replica_events(before, after[replica_id], self.now)
        for started in await self._start(tx, starts):
            told += replica_events(None, started, self.now)
        return told

    def _leaving(self, replica_id: str, state: ReplicaState) -> Replica:
        replica = self.replicas[replica_id]
        left_at = self.now if state is ReplicaState.DRAINING else None
        return replace(
            replica, state=state, reason="replaced", state_since=self.now, drain_began_at=left_at
        )

    async def _start(self, tx: Transaction, starts: Sequence[Deployment]) -> list[Replica]:
        if not starts:
            return []
        free = await self.slots.take(tx, len(starts))
        if len(free) < len(starts):
            log.warning("replica.no_slot", endpoint_id=self.row.endpoint.id, wanted=len(starts))
        new = [
            _new_replica(self.clock.new_short_id(), deployment, slot, self.now)
            for deployment, slot in zip(starts, free, strict=False)
        ]
        await replica_store.add(tx, new)
        await acceptance_store.pin(tx, self.row.endpoint.id, [one.id for one in new])
        return new


async def _figures(
    tx: Transaction, active: Deployment | None, base: Deployment | None, limits: RolloutLimits
) -> Mapping[int, VersionFigures]:
    """What the gate needs while a rollout goes forward; one bounded query."""
    started = active is not None and active.status is RolloutStatus.IN_PROGRESS
    if active is None or not started or active.started_at is None or not limits.gate.requests_min:
        return {}
    since = {active.version_number: active.started_at}
    if base is not None and base.version_number != active.version_number:
        since[base.version_number] = active.started_at - timedelta(seconds=limits.gate_base_s)
    return await usage_store.version_figures(tx, active.endpoint_id, since, rows_max=GATE_ROWS_MAX)


def _new_replica(replica_id: str, deployment: Deployment, slot: int, now: datetime) -> Replica:
    return Replica(
        id=f"r-{replica_id}",
        endpoint_id=deployment.endpoint_id,
        deployment_id=deployment.id,
        version_id=deployment.version_id,
        version_number=deployment.version_number,
        digest=deployment.digest,
        fingerprint=deployment.fingerprint,
        state=ReplicaState.PENDING,
        reason="",
        slot=slot,
        url=None,
        incarnation=None,
        probe_passes=0,
        probe_failures=0,
        failure_counted=False,
        routed_generation=None,
        routed_at=None,
        unrouted_generation=None,
        created_at=now,
        state_since=now,
        ready_at=None,
        drain_deadline=None,
        revision=1,
        settings_digest=deployment.settings_digest,
    )


def _report(decision: Plan) -> None:
    after = decision.after
    log.info(
        "rollout.step",
        deployment_id=after.id,
        endpoint_id=after.endpoint_id,
        status=after.status.value,
        reason=after.reason,
        actions=len(decision.actions),
    )
