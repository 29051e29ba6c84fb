"""One replica in any world: only transitions of the table, and an end whatever happens (B2)."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from toys.world import START, replica
from weighbridge.acceptance.model import Verdict
from weighbridge.engines.base import ProbeOutcome
from weighbridge.replicas.model import TRANSITIONS, Replica, ReplicaLimits, ReplicaState
from weighbridge.replicas.plan import Command, Probe, Seen, Step, plan
from weighbridge.runtimes.base import ReplicaStatus, RuntimeState

LIMITS = ReplicaLimits(warm_s=60, unroute_ack_s=10, drain_s=60, stop_grace_s=5, stop_alarm_s=5)
S = ReplicaState
NOW = START + timedelta(hours=1)
FAILED = frozenset(ProbeOutcome) - {ProbeOutcome.READY, ProbeOutcome.WRONG_IDENTITY}

times = st.integers(-7_200, 7_200).map(lambda s: NOW + timedelta(seconds=s))
generations = st.none() | st.integers(0, 5)


@st.composite
def replicas(draw: st.DrawFn) -> Replica:
    return replica(
        "r-1",
        state=draw(st.sampled_from(S)),
        incarnation=draw(st.sampled_from([None, "i1", "i2"])),
        url=draw(st.sampled_from([None, "http://toy"])),
        probe_passes=draw(st.integers(0, 2)),
        probe_failures=draw(st.integers(0, 10)),
        routed_generation=draw(generations),
        unrouted_generation=draw(generations),
        routed_at=draw(st.none() | times),
        ready_at=draw(st.none() | times),
        drain_deadline=draw(st.none() | times),
        state_since=draw(times),
    )


@st.composite
def processes(draw: st.DrawFn) -> ReplicaStatus:
    return ReplicaStatus(
        name="r-1",
        state=draw(st.sampled_from(RuntimeState)),
        labels={},
        incarnation=draw(st.sampled_from(["i1", "i2"])),
        node="n",
        url=draw(st.sampled_from([None, "http://toy"])),
        exit_code=draw(st.sampled_from([None, 0, 1, -9])),
        reason=draw(st.sampled_from([None, "because"])),
    )


probes = st.builds(
    Probe,
    outcome=st.sampled_from(ProbeOutcome),
    detail=st.just("detail"),
    generated=st.booleans(),
)
worlds = st.builds(
    Seen,
    process=st.none() | processes(),
    runtime_away=st.booleans(),
    probe=st.none() | probes,
    routes_acked=generations,
    in_flight=st.integers(0, 3),
    guarded=st.booleans(),
    start_s=st.just(30.0),
    exam=st.none()
    | st.builds(Verdict, passed=st.booleans(), detail=st.just("differs"), probes=st.just(1)),
    exam_waits=st.booleans(),
)


def check(before: Replica, seen: Seen, step: Step) -> None:
    after = step.after
    if after.state is not before.state:
        assert after.state in TRANSITIONS[before.state]
        assert after.state_since != before.state_since or after.state_since == NOW
    if before.state.final:
        assert step == Step(before)
    # R15: nothing is ready that has not produced a token, and nothing wrong stays or becomes ready.
    if after.state is S.READY and before.state is not S.READY:
        # Without a new answer it had all its passes before, and only its acceptance probes went on.
        outcome = ProbeOutcome.READY if seen.probe is None else seen.probe.outcome
        passes = before.probe_passes + (seen.probe is not None)
        assert outcome is ProbeOutcome.READY
        assert passes >= LIMITS.probe_passes_min
        assert (seen.probe is not None and seen.probe.generated) or before.probe_passes > 0
        assert not seen.exam_waits
        assert seen.exam is None or seen.exam.passed
    if before.state is S.WARMING and after.state is S.WARMING and seen.probe is not None:
        check_passes(before, seen.probe, after)
    # What fails while it warms is given up for that only after failures in a row, or when its time is over.
    unhealthy = seen.probe is not None and seen.probe.outcome is ProbeOutcome.UNHEALTHY
    if before.state is S.WARMING and after.state is S.FAILING and unhealthy and seen.exam is None:
        warmed_s = (NOW - before.state_since).total_seconds()
        failures = before.probe_failures + 1
        often = failures >= LIMITS.warm_failures_max and warmed_s >= LIMITS.warm_doubt_s
        moved = seen.process is None or seen.process.incarnation != before.incarnation
        assert often or warmed_s >= LIMITS.warm_s or moved
    wrong = seen.probe is not None and seen.probe.outcome is ProbeOutcome.WRONG_IDENTITY
    if wrong and before.state in (S.STARTING, S.WARMING, S.READY):
        assert after.state is not S.READY
    # R19: only what is confirmed dead, lost with its node, or never ran gives its slot away.
    if after.state.final and not before.state.final:
        assert not seen.runtime_away
        assert seen.process is None or seen.process.state in (
            RuntimeState.EXITED,
            RuntimeState.LOST,
        )
    # G5, G6: a draining replica is stopped by us only when nobody routes to it and nothing is in flight, or late.
    if before.state is S.DRAINING and step.command is Command.STOP:
        late = (before.drain_deadline or NOW + timedelta(days=1)) <= NOW
        assert seen.in_flight == 0 or late
    if step.command is Command.LAUNCH:
        assert before.state is S.PENDING
        assert seen.process is None


def check_passes(before: Replica, probe: Probe, after: Replica) -> None:
    """R15: the first pass of a row has brought a token, and whatever is not a pass ends the row."""
    row = before.probe_passes + 1 if probe.outcome is ProbeOutcome.READY else 0
    assert after.probe_passes <= row
    assert probe.generated or before.probe_passes > 0 or after.probe_passes == 0


@settings(max_examples=2_000, deadline=None)
@given(replicas(), worlds)
def test_any_step_in_any_world_is_safe(before: Replica, seen: Seen) -> None:
    check(before, seen, plan(before, seen, NOW, LIMITS))


@settings(max_examples=1_000, deadline=None)
@given(replicas(), processes(), probes, st.sampled_from((S.WARMING, S.READY)), st.booleans())
def test_any_probe_of_what_runs_is_judged_rightly(
    before: Replica, process: ReplicaStatus, probe: Probe, state: ReplicaState, guarded: bool
) -> None:
    before = replace(before, state=state, incarnation=process.incarnation)
    running = replace(process, state=RuntimeState.RUNNING)
    seen = Seen(process=running, probe=probe, guarded=guarded)
    step = plan(before, seen, NOW, LIMITS)
    check(before, seen, step)
    if state is S.READY and step.after.state is S.FAILING and probe.outcome in FAILED:
        # R15, R16: after failures in a row; where most replicas fail at once, only for a failed generation.
        assert before.probe_failures + 1 >= LIMITS.probe_failures_max
        assert probe.generated or not guarded


@given(
    replicas(), processes(), st.none() | probes, st.sampled_from((S.STARTING, S.WARMING, S.READY))
)
def test_another_process_under_its_name_is_never_trusted(
    before: Replica, process: ReplicaStatus, probe: Probe | None, state: ReplicaState
) -> None:
    """D4: whatever it answers."""
    before = replace(before, state=state, incarnation="of another")
    seen = Seen(process=replace(process, state=RuntimeState.RUNNING), probe=probe)
    step = plan(before, seen, NOW, LIMITS)
    check(before, seen, step)
    assert step.after.state is S.FAILING


@settings(max_examples=300, deadline=None)
@given(replicas(), st.lists(worlds, max_size=20), st.booleans())
def test_whatever_happened_before_a_replica_on_its_way_out_ends(
    one: Replica, past: list[Seen], away: bool
) -> None:
    """And a process that never answers is given up within its limits."""
    for seen in past:
        one = plan(one, seen, NOW, LIMITS).after
    silent = Seen(routes_acked=0, in_flight=1, start_s=30.0, runtime_away=away)
    process = ReplicaStatus("r-1", RuntimeState.RUNNING, {}, one.incarnation or "i1", "n", url="u")
    now = NOW + timedelta(seconds=7_200)
    for _ in range(200):
        now += timedelta(seconds=1)
        step = plan(one, replace(silent, process=process), now, LIMITS)
        one = step.after
        if step.command is Command.STOP and not away:
            process = replace(process, state=RuntimeState.EXITED, exit_code=0)
    waits_for_runtime = away and one.state in (S.PENDING, S.STOPPING, S.FAILING)
    assert one.state.final or one.state is S.READY or waits_for_runtime
