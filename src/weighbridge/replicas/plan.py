"""Decide the next step of one replica. Pure: no clock, no database, no network, no processes."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from weighbridge.acceptance.model import Verdict
from weighbridge.engines.base import ProbeOutcome
from weighbridge.replicas.model import Replica, ReplicaLimits, ReplicaState
from weighbridge.runtimes.base import ReplicaStatus, RuntimeState

REASON_CHARS_MAX = 500
"""A reason may hold what an engine, or a stranger on its port, has answered."""

EXAM_GOES_ON = "its acceptance probes are asked"
DRAIN_WAITS = "waiting for its requests to end"
"""Reason of a replica that every gateway has let go of while requests are in flight."""


class Command(StrEnum):
    """What a step asks of the runtime; each is idempotent."""

    LAUNCH = "launch"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer to one probe; `generated` when it had to produce a real token."""

    outcome: ProbeOutcome
    detail: str = ""
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a replica at one moment.

    `process` is None when the runtime knows no such process, and means nothing while `runtime_away`.
    `probe` is an answer that no earlier step has used. `guarded` says that most replicas of the endpoint
    fail their probes at once, so the prober is suspect too (R16). `start_s` is how long the start may take.
    `exam` is what its acceptance probes have shown, None where it has none; `exam_waits` while they go on.
    """

    process: ReplicaStatus | None = None
    runtime_away: bool = False
    probe: Probe | None = None
    routes_acked: int | None = None
    in_flight: int = 0
    guarded: bool = False
    start_s: float = 600.0
    exam: Verdict | None = None
    exam_waits: bool = False

    @property
    def examined(self) -> bool:
        """Whether it has acceptance probes."""
        return self.exam is not None or self.exam_waits


@dataclass(frozen=True, slots=True)
class Step:
    """The replica as it is from now on. A STOP is carried out after `after` is committed, never before.

    `in_flight` are the requests it still had when this was decided, where they were counted. `exam` is the
    verdict that this step acts on.
    """

    after: Replica
    command: Command | None = None
    in_flight: int | None = None
    exam: Verdict | None = None


def plan(replica: Replica, seen: Seen, now: datetime, limits: ReplicaLimits) -> Step:
    """Return the replica's next step (reliability B2). Total: there is an answer for every state of the world."""
    match replica.state:
        case ReplicaState.PENDING:
            step = _place(replica, seen, now)
        case ReplicaState.STARTING:
            step = _identify(replica, seen, now)
        case ReplicaState.WARMING:
            step = _warm(replica, seen, now, limits)
        case ReplicaState.READY:
            step = _watch(replica, seen, now, limits)
        case ReplicaState.DRAINING:
            step = _drain(replica, seen, now, limits)
        case ReplicaState.STOPPING | ReplicaState.FAILING:
            step = _bury(replica, seen, now, limits)
        case ReplicaState.STOPPED | ReplicaState.FAILED | ReplicaState.LOST:
            step = Step(replica)
    return step


def _place(replica: Replica, seen: Seen, now: datetime) -> Step:
    """Ask for a place until the runtime has given one; the row itself is the intent (B0.2)."""
    process = seen.process
    if seen.runtime_away:
        return Step(_say(replica, "waiting for the runtime"))
    if process is None:
        return Step(replica, Command.LAUNCH)
    match process.state:
        case RuntimeState.PENDING | RuntimeState.FETCHING:
            return Step(_say(replica, process.reason or "waiting for a place"))
        case RuntimeState.EXITED:
            words = f"could not start: {process.reason or _exit_words(process)}"
            return Step(_become(replica, ReplicaState.FAILED, words, now))
        case RuntimeState.STOPPING | RuntimeState.LOST:
            words = process.reason or "stopped by its node"
            return Step(_become(replica, ReplicaState.STOPPING, words, now), Command.STOP)
        case _:
            placed = replace(replica, url=process.url, incarnation=process.incarnation)
            return Step(_become(placed, ReplicaState.STARTING, "", now))


def _identify(replica: Replica, seen: Seen, now: datetime) -> Step:
    """A process runs: wait until it answers as this replica with these bytes (R15)."""
    if ended := _ended(replica, seen, now):
        return ended
    if seen.process is not None:
        fetching = seen.process.state is RuntimeState.FETCHING
        words = (seen.process.reason or "") if fetching else ""
        replica = _say(replace(replica, url=seen.process.url), words)
    probe = seen.probe
    if probe is not None and probe.outcome is ProbeOutcome.READY:
        warming = replace(replica, probe_passes=0, probe_failures=0)
        return Step(_become(warming, ReplicaState.WARMING, "", now))
    if probe is not None and probe.outcome is ProbeOutcome.WRONG_IDENTITY:
        return _give_up(replica, probe.detail, now)
    if now >= replica.state_since + timedelta(seconds=seen.start_s):
        return _give_up(replica, f"did not answer within {seen.start_s:g} s", now)
    return Step(replica)


def _warm(replica: Replica, seen: Seen, now: datetime, limits: ReplicaLimits) -> Step:
    """Let it in after passes in a row, the first of them with a real token (R15), and its acceptance probes."""
    if ended := _ended(replica, seen, now):
        return ended
    probe = seen.probe
    if probe is not None and probe.outcome is ProbeOutcome.WRONG_IDENTITY:
        return _give_up(replica, probe.detail, now)
    if probe is not None:
        replica = _questioned(replica, probe, limits)
    if seen.exam is not None and not seen.exam.passed:
        return replace(_give_up(replica, seen.exam.detail, now), exam=seen.exam)
    if replica.probe_passes >= limits.probe_passes_min:
        replica = replace(replica, warm_at=replica.warm_at or now)
        if not seen.exam_waits:
            ready = replace(replica, ready_at=now, probe_failures=0)
            return Step(_become(ready, ReplicaState.READY, "", now), exam=seen.exam)
        replica = _say(replica, EXAM_GOES_ON)
    if words := _hopeless(replica, seen, now, limits):
        return _give_up(replica, words, now)
    return Step(replica)


def _questioned(replica: Replica, probe: Probe, limits: ReplicaLimits) -> Replica:
    """Count passes, and questions without a token, each in a row."""
    if probe.outcome is ProbeOutcome.READY:
        if probe.generated or replica.probe_passes > 0:
            passes = min(replica.probe_passes + 1, limits.probe_passes_min)
            replica = replace(replica, probe_passes=passes)
        return replace(replica, probe_failures=0)
    if probe.generated:
        failures = min(replica.probe_failures + 1, limits.warm_failures_max)
        replica = replace(replica, probe_failures=failures)
    return _say(replace(replica, probe_passes=0), probe.detail)


def _hopeless(replica: Replica, seen: Seen, now: datetime, limits: ReplicaLimits) -> str:
    """Why a warming replica is waited for no longer: so many failures, for so long, or all of its time."""
    warmed_s = (now - replica.state_since).total_seconds()
    failures = replica.probe_failures
    if warmed_s >= limits.warm_doubt_s and failures >= limits.warm_failures_max:
        return f"{failures} questions in a row brought no token: {replica.reason}"
    if seen.examined and replica.warm_at is not None:
        # That others are examined before it is no fault of its own.
        exam_s = limits.exam_turn_s + limits.exam_s
        late = (now - replica.warm_at).total_seconds() >= exam_s
        return f"was not examined within {exam_s:g} s: {replica.reason}" if late else ""
    if warmed_s >= limits.warm_s:
        return f"was not ready within {limits.warm_s:g} s of answering: {replica.reason}"
    return ""


def _watch(replica: Replica, seen: Seen, now: datetime, limits: ReplicaLimits) -> Step:
    """Note when every gateway routes to it, and give it up after failures in a row."""
    if ended := _ended(replica, seen, now):
        return ended
    if replica.routed_at is None and _acked(replica.routed_generation, seen):
        replica = replace(replica, routed_at=now)
    probe = seen.probe
    if probe is None:
        return Step(replica)
    if probe.outcome is ProbeOutcome.WRONG_IDENTITY:
        return _give_up(replica, probe.detail, now)
    if probe.outcome is ProbeOutcome.READY:
        if replica.probe_failures or replica.reason:
            replica = _say(replace(replica, probe_failures=0), "")
        return Step(replica)
    return _doubt(replica, probe, seen, now, limits)


def _doubt(
    replica: Replica, probe: Probe, seen: Seen, now: datetime, limits: ReplicaLimits
) -> Step:
    """A failed probe of a ready replica: too many in a row, or too often nearly so, and it goes."""
    failures = min(replica.probe_failures + 1, limits.probe_failures_max)
    failing = _say(replace(replica, probe_failures=failures), probe.detail)
    believed = probe.generated or not seen.guarded
    if believed and replica.probe_failures < failures == max(1, limits.probe_failures_max - 1):
        since = now - timedelta(seconds=limits.flips_window_s)
        flips = (*(at for at in failing.flips if at > since), now)
        failing = replace(failing, flips=flips[-limits.flips_max :])
        if len(flips) >= limits.flips_max:
            words = f"failed its probes {len(flips)} times within {limits.flips_window_s:g} s"
            return _give_up(failing, f"{words}: {probe.detail}", now)
    # R16: where most replicas fail at once, only a failed generation, with its longer patience, convinces.
    if failures >= limits.probe_failures_max and believed:
        return _give_up(failing, f"{failures} probes in a row failed: {probe.detail}", now)
    return Step(failing)


def _drain(replica: Replica, seen: Seen, now: datetime, limits: ReplicaLimits) -> Step:
    """Wait for the gateways to let go, then for their streams, never longer than the deadline (G5, G6)."""
    process = seen.process
    if not seen.runtime_away:
        if process is None or process.state is RuntimeState.EXITED:
            words = "its process ended while it drained"
            return Step(_become(replica, ReplicaState.STOPPING, words, now))
        if process.state is RuntimeState.LOST:
            return _lost(replica, process.reason or "its node is lost", now)
    waited_long = now >= replica.state_since + timedelta(seconds=limits.unroute_ack_s)
    if not _acked(replica.unrouted_generation, seen) and not waited_long:
        return Step(replica)
    deadline = replica.drain_deadline or now + timedelta(seconds=limits.drain_s)
    # Where no gateway lives there is nobody who counts.
    counted = None if seen.routes_acked is None else seen.in_flight
    if seen.in_flight == 0:
        ended = _become(replica, ReplicaState.STOPPING, replica.reason, now)
        return Step(ended, Command.STOP, counted)
    if now >= deadline:
        words = f"{seen.in_flight} requests cut at the drain deadline"
        return Step(_become(replica, ReplicaState.STOPPING, words, now), Command.STOP, counted)
    waiting = _say(replace(replica, drain_deadline=deadline), DRAIN_WAITS)
    return Step(waiting, in_flight=counted)


def _bury(replica: Replica, seen: Seen, now: datetime, limits: ReplicaLimits) -> Step:
    """Its slot is free only when its process is confirmed dead (R19), however long that takes."""
    process = seen.process
    if seen.runtime_away:
        return Step(replica)
    if process is None or process.state is RuntimeState.EXITED:
        failing = replica.state is ReplicaState.FAILING
        final = ReplicaState.FAILED if failing else ReplicaState.STOPPED
        return Step(_become(replica, final, replica.reason, now))
    if process.state is RuntimeState.LOST:
        return _lost(replica, process.reason or "its node is lost", now)
    overdue = now >= replica.state_since + timedelta(
        seconds=limits.stop_grace_s + limits.stop_alarm_s
    )
    command = None if process.state is RuntimeState.STOPPING and not overdue else Command.STOP
    return Step(_say(replica, STOP_OVERDUE) if overdue else replica, command)


STOP_OVERDUE = "not confirmed dead; its slot stays taken until it is"
"""Reason of a replica whose end takes longer than it should; the reconciler warns of it."""


def _ended(replica: Replica, seen: Seen, now: datetime) -> Step | None:
    """What to do when the process is no longer what it was; None when it is."""
    process = seen.process
    if seen.runtime_away:
        return None
    if process is None:
        return _lost(replica, "its process is gone", now)
    step: Step | None = None
    match process.state:
        case RuntimeState.LOST:
            step = _lost(replica, process.reason or "its node is lost", now)
        case RuntimeState.EXITED if process.exit_code is None:
            # It did not end by itself, so its end says nothing about the version.
            step = _lost(replica, process.reason or "its process was stopped", now)
        case RuntimeState.EXITED:
            step = Step(_become(replica, ReplicaState.FAILED, _exit_words(process), now))
        case RuntimeState.STOPPING:
            ready = replica.state is ReplicaState.READY
            state = ReplicaState.DRAINING if ready else ReplicaState.STOPPING
            step = Step(_become(replica, state, process.reason or "stopped by its node", now))
        case _ if replica.incarnation not in (None, process.incarnation):
            step = _give_up(replica, "its process was replaced by another", now)
    return step


def _acked(generation: int | None, seen: Seen) -> bool:
    """Every live gateway has taken that table; where none lives, none routes by an older one."""
    if generation is None:
        return False
    return seen.routes_acked is None or seen.routes_acked >= generation


def _give_up(replica: Replica, reason: str, now: datetime) -> Step:
    return Step(_become(replica, ReplicaState.FAILING, reason, now), Command.STOP)


def _lost(replica: Replica, reason: str, now: datetime) -> Step:
    return Step(_become(replica, ReplicaState.LOST, reason, now))


def _become(replica: Replica, state: ReplicaState, reason: str, now: datetime) -> Replica:
    left_at = now if state is ReplicaState.DRAINING else replica.drain_began_at
    return replace(_say(replica, reason), state=state, state_since=now, drain_began_at=left_at)


def _say(replica: Replica, reason: str) -> Replica:
    return replace(replica, reason=reason[:REASON_CHARS_MAX])


def _exit_words(process: ReplicaStatus) -> str:
    return process.reason or f"exited with code {process.exit_code}"
