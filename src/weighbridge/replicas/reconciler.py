"""Make the world match the replica rows: launch, probe, drain and stop; load, act outside transactions, record."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from weighbridge.acceptance.examiner import Examiner
from weighbridge.clock import Clock
from weighbridge.control.wake import Wake
from weighbridge.engines.base import Engine, ProbeOutcome, find_engine
from weighbridge.errors import InvalidError, LimitError, NotFoundError, StaleError, UnavailableError
from weighbridge.receipts import service as receipts
from weighbridge.replicas import store
from weighbridge.replicas.accepting import Accepting
from weighbridge.replicas.launch import OWNER, engine_launch, replica_spec
from weighbridge.replicas.model import Replica, ReplicaLimits, ReplicaState
from weighbridge.replicas.plan import STOP_OVERDUE, Command, Seen, Step, plan
from weighbridge.replicas.probe import Prober, Question, due
from weighbridge.replicas.store import Watched
from weighbridge.replicas.telling import step_events
from weighbridge.replicas.weights.ways import VersionStore, WeightsOf, on_path
from weighbridge.routing.hosts.view import Acks, Gateways
from weighbridge.runtimes.base import PLACED, ReplicaStatus, Runtime, RuntimeState
from weighbridge.settings import Settings
from weighbridge.storage import lease
from weighbridge.storage.database import Database
from weighbridge.telemetry.logs import redact
from weighbridge.weights.node.pull import PULLING

log = structlog.get_logger()

IDLE_S = 5.0
ACK_POLL_S = 0.05
DRAIN_POLL_S = 0.25
PLACE_POLL_S = 1.0
LOG_TAIL_BYTES = 4096
LOG_LINE_CHARS_MAX = 300


def replica_limits(settings: Settings) -> ReplicaLimits:
    return ReplicaLimits(
        probe_period_s=settings.probe_period_s,
        probe_start_period_s=settings.probe_start_period_s,
        probe_timeout_s=settings.probe_timeout_s,
        probe_generate_s=settings.probe_generate_s,
        probe_failures_max=settings.probe_failures_max,
        drain_s=settings.drain_deadline_s,
        stop_grace_s=settings.replica_stop_grace_s,
    )


@dataclass(frozen=True, slots=True)
class World:
    """What the runtime says: every process of ours by replica id, or that it cannot say."""

    processes: Mapping[str, ReplicaStatus]
    away: bool


class ReplicaReconciler:
    """World-changer of replicas. `close` ends the probes that are under way."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        wake: Wake,
        runtime: Runtime,
        engines: Mapping[str, Engine],
        store: VersionStore,
        gateways: Gateways,
        pepper: bytes,
        settings: Settings,
        lease_of: Callable[[], lease.Lease],
        examiner: Examiner | None = None,
        weights_of: WeightsOf | None = None,
        cache_dir: str | None = None,
    ) -> None:
        """Without `weights_of` a version is loaded from where `store` has it. `cache_dir` is the engines'."""
        self._database = database
        self._clock = clock
        self._wake = wake
        self._runtime = runtime
        self._engines = engines
        self._weights_of = weights_of or on_path(store)
        self._gateways = gateways
        self._pepper = pepper
        self._cache_dir = cache_dir or str(settings.paths.cache)
        self._limits = replica_limits(settings)
        self._lease_of = lease_of
        self._prober = Prober(clock.monotonic, wake)
        self._accepting = Accepting(database, examiner, pepper)
        self._kept_until_s: dict[str, float] = {}
        self._held: lease.Lease | None = None

    async def reconcile(self) -> float:
        """One pass over all replicas, under one lease; returns how long they may be left alone, in seconds."""
        self._held = self._lease_of()
        async with self._database.begin() as tx:
            await lease.require(tx, self._held)
            watched = await store.watched(tx)
            # After the rows: what they say was unrouted must be what a gateway has let go of.
            acks = await self._gateways.look(tx)
        # Rows first, then processes: a process that is not there cannot be one that started in between.
        world = await self._list()
        self._prober.keep(one.replica.id for one in watched)
        self._accepting.keep(one.replica for one in watched)
        guarded = mass_failures([one.replica for one in watched])
        now = self._clock.now()
        acked, in_flight = acks.routes_acked(), acks.counter()
        steps = []
        for one in watched:
            seen = self._see(one, world, guarded, acked=acked, in_flight=in_flight)
            steps.append((one, plan(one.replica, seen, now, self._limits)))
        steps = [(one, await self._prepare(one, step, now)) for one, step in steps]
        # Most stay the very same object: thousands need not be compared member by member.
        changed = [
            (one, step)
            for one, step in steps
            if step.after is not one.replica and step.after != one.replica
        ]
        stale = await self._record(changed, now)
        for one, step in steps:
            if step.command is Command.STOP and one.replica.id not in stale:
                await self._stop(one.replica.id)
        after = [(one, step.after) for one, step in steps if one.replica.id not in stale]
        await self._probe(after, world, guarded, acks)
        if not world.away:
            await self._sweep({one.replica.id for one in watched}, world)
        self._announce(changed, stale)
        if stale:
            return 0.0
        return min((self._pause_s(replica) for _, replica in after), default=IDLE_S)

    async def close(self) -> None:
        await self._prober.close()
        await self._accepting.close()

    async def _list(self) -> World:
        try:
            listed = await self._runtime.list(OWNER)
        except UnavailableError as error:
            log.warning("runtime.away", reason=error.message)
            return World({}, away=True)
        return World({status.name: status for status in listed}, away=False)

    def _see(
        self,
        one: Watched,
        world: World,
        guarded: frozenset[str],
        *,
        acked: int | None,
        in_flight: Callable[[int], int],
    ) -> Seen:
        replica = one.replica
        draining = replica.state is ReplicaState.DRAINING
        exam, exam_waits = self._accepting.verdict(one)
        return Seen(
            process=world.processes.get(replica.id),
            runtime_away=world.away,
            probe=self._prober.take(replica.id, replica.incarnation),
            routes_acked=acked,
            in_flight=in_flight(replica.slot) if draining else 0,
            guarded=replica.endpoint_id in guarded,
            start_s=one.engine.start_timeout_s + one.size_bytes / self._limits.load_bytes_per_s,
            exam=exam,
            exam_waits=exam_waits,
        )

    async def _prepare(self, one: Watched, step: Step, now: datetime) -> Step:
        """Launch what is to be launched, and say of a failure what the engine said last."""
        if step.command is Command.LAUNCH:
            return await self._launch(one, step, now)
        after = step.after
        if step.exam is not None:
            return step  # a failed exam says itself what was wrong; the engine's last words are about other things
        if after.state is not one.replica.state and after.state in (
            ReplicaState.FAILED,
            ReplicaState.FAILING,
        ):
            token = engine_launch(one, self._pepper, self._cache_dir).token
            line = last_line(await self._output(after.id), token)
            if line and one.replica.state is not ReplicaState.FAILING:
                return replace(step, after=replace(after, reason=f"{after.reason}: {line}"))
        return step

    def _check_lease(self) -> None:
        """What was seen under a lease that is lost, or was lost meanwhile, is no ground to act on (D5)."""
        if self._lease_of() != self._held:
            raise StaleError("another controller has led since this pass began")

    async def _launch(self, one: Watched, step: Step, now: datetime) -> Step:
        try:
            engine = find_engine(self._engines, one.engine.engine)
            launch = engine_launch(one, self._pepper, self._cache_dir)
            spec = await replica_spec(
                one, engine, launch, self._weights_of, grace_s=self._limits.stop_grace_s
            )
            self._check_lease()
            await self._runtime.launch(spec)
        except (InvalidError, NotFoundError) as error:
            words = f"could not start: {error.message}"
            failed = replace(step.after, state=ReplicaState.FAILED, reason=words, state_since=now)
            return Step(failed)
        except (LimitError, UnavailableError) as error:
            return Step(replace(step.after, reason=error.message))
        log.info("replica.launched", replica_id=spec.name, endpoint_id=one.replica.endpoint_id)
        return Step(step.after)

    async def _output(self, replica_id: str) -> str:
        try:
            return await self._runtime.logs(replica_id, LOG_TAIL_BYTES)
        except UnavailableError:
            return ""

    async def _record(self, steps: Sequence[tuple[Watched, Step]], now: datetime) -> frozenset[str]:
        """Write these changes in one transaction, by id; the replicas that somebody else changed meanwhile."""
        changes = {one.replica.id: (one.replica, step) for one, step in steps}
        stale: set[str] = set()
        told: dict[str, list[receipts.Payload]] = {}
        if changes:
            async with self._database.begin() as tx:
                self._check_lease()
                await lease.require(tx, self._lease_of())
                for replica_id, (before, step) in sorted(changes.items()):
                    try:
                        await store.save(tx, before, step.after)
                    except StaleError:
                        stale.add(replica_id)
                        continue
                    told.setdefault(before.endpoint_id, []).extend(step_events(before, step, now))
                for endpoint_id, events in sorted(told.items()):
                    await receipts.tell_of_replicas(tx, endpoint_id, events)
        return frozenset(stale)

    async def _stop(self, replica_id: str) -> None:
        self._check_lease()
        try:
            await self._runtime.stop(replica_id, self._limits.stop_grace_s)
        except UnavailableError as error:
            log.warning("replica.stop_failed", replica_id=replica_id, reason=error.message)

    async def _probe(
        self,
        replicas: Sequence[tuple[Watched, Replica]],
        world: World,
        guarded: frozenset[str],
        acks: Acks,
    ) -> None:
        now_s = self._clock.monotonic()
        # Which workers live is asked once a pass, not once a replica.
        in_flight = acks.counter()
        for one, replica in replicas:
            process = world.processes.get(replica.id)
            url = replica.url if world.away or process is None else process.url
            running = world.away or (process is not None and process.state is RuntimeState.RUNNING)
            if not running or url is None or replica.incarnation is None:
                continue
            await self._accepting.begin(one, replica, url)
            engine = self._engines.get(one.engine.engine)
            if engine is None or not self._prober.free(replica.id):
                continue
            generate = due(
                replica,
                self._prober.asked(replica.id),
                now_s,
                self._limits,
                in_flight=in_flight(replica.slot),
                guarded=replica.endpoint_id in guarded,
            )
            if generate is None:
                continue
            limits = self._limits
            question = Question(
                replica_id=replica.id,
                incarnation=replica.incarnation,
                url=url,
                launch=engine_launch(one, self._pepper, self._cache_dir),
                generate=generate,
                timeout_s=limits.probe_generate_s if generate else limits.probe_timeout_s,
                expected=_expected(replica),
            )
            self._prober.ask(engine, question)

    async def _sweep(self, known: set[str], world: World) -> None:
        """Stop processes that no open row asks for, and forget ended ones (D4)."""
        now_s = self._clock.monotonic()
        strangers = {name: p for name, p in world.processes.items() if name not in known}
        self._kept_until_s = {n: at for n, at in self._kept_until_s.items() if n in strangers}
        unclear = [name for name in strangers if now_s >= self._kept_until_s.get(name, now_s)]
        if not unclear:
            return
        async with self._database.begin() as tx:
            self._check_lease()
            await lease.require(tx, self._lease_of())
            ended = await store.ended_since(tx, unclear)
        for name in unclear:
            row = ended.get(name)
            failed = row is not None and row.state is ReplicaState.FAILED
            if strangers[name].state not in (RuntimeState.EXITED, RuntimeState.LOST):
                if strangers[name].state is not RuntimeState.STOPPING:
                    log.warning("replica.orphan_stopped", replica_id=name)
                    await self._stop(name)
            elif failed and name not in self._kept_until_s:
                # Its logs are what somebody will want to read.
                self._kept_until_s[name] = now_s + self._limits.failed_kept_s
            else:
                await self._forget(name)

    async def _forget(self, name: str) -> None:
        self._check_lease()
        try:
            await self._runtime.forget(name)
        except UnavailableError as error:
            log.warning("replica.forget_failed", replica_id=name, reason=error.message)

    def _announce(self, steps: Sequence[tuple[Watched, Step]], stale: frozenset[str]) -> None:
        moved = False
        for one, step in steps:
            before, after = one.replica, step.after
            if before.id in stale:
                continue
            moved = moved or after.routed_at != before.routed_at
            if after.state is not before.state:
                moved = True
                if before.reason.startswith(PULLING):
                    log.info("replica.pulled", replica_id=before.id, last=before.reason)
                log.info(
                    "replica.moved",
                    replica_id=before.id,
                    endpoint_id=before.endpoint_id,
                    version=before.version_number,
                    before=before.state.value,
                    after=after.state.value,
                    reason=after.reason,
                )
            elif after.reason == STOP_OVERDUE and before.reason != STOP_OVERDUE:
                log.error("replica.stop_overdue", replica_id=before.id)
        if moved:
            self._wake("rollouts")
            self._wake("routes")

    def _pause_s(self, replica: Replica) -> float:
        match replica.state:
            case ReplicaState.READY if replica.routed_at is None:
                # Until the publisher has named it, its wake-up says when to look.
                routed = replica.routed_generation is not None
                return ACK_POLL_S if routed else self._limits.probe_start_period_s
            case ReplicaState.READY:
                return self._limits.probe_period_s
            case ReplicaState.DRAINING:
                return ACK_POLL_S if replica.drain_deadline is None else DRAIN_POLL_S
            case ReplicaState.PENDING if replica.reason not in ("", PLACED):
                return PLACE_POLL_S
            case state if state.final:
                return IDLE_S
            case _:
                return self._limits.probe_start_period_s


def last_line(output: str, token: str) -> str:
    """What an engine said last, for the reason that its customer reads: one line, cut, without secrets (T5)."""
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        return ""
    # Before the cut, which could leave half of a secret that nothing recognizes.
    line = redact(lines[-1].replace(token, "[secret]"))
    return "".join(filter(str.isprintable, line)).strip()[:LOG_LINE_CHARS_MAX]


def _expected(replica: Replica) -> ProbeOutcome | None:
    """The answer that changes nothing."""
    match replica.state:
        case ReplicaState.STARTING:
            return ProbeOutcome.STARTING
        case ReplicaState.READY if replica.probe_failures == 0:
            return ProbeOutcome.READY
        case _:
            return None


def mass_failures(replicas: Sequence[Replica]) -> frozenset[str]:
    """Endpoints of which more than half of the ready replicas fail their probes at once (R16)."""
    ready = [r for r in replicas if r.state is ReplicaState.READY]
    size = Counter(r.endpoint_id for r in ready)
    failing = Counter(r.endpoint_id for r in ready if r.probe_failures > 0)
    return frozenset(endpoint for endpoint, n in failing.items() if n * 2 > size[endpoint])
