"""Decisions about one replica, case by case (reliability B2), and when it is probed."""

from dataclasses import replace
from datetime import timedelta

import pytest

from toys.world import START, replica, serving
from weighbridge.engines.base import ProbeOutcome
from weighbridge.replicas.model import TRANSITIONS, Replica, ReplicaLimits, ReplicaState
from weighbridge.replicas.plan import REASON_CHARS_MAX, Command, Probe, Seen, plan
from weighbridge.replicas.probe import Asked, due
from weighbridge.replicas.reconciler import mass_failures
from weighbridge.runtimes.base import ReplicaStatus, RuntimeState

NOW = START + timedelta(hours=1)
LIMITS = ReplicaLimits()
S = ReplicaState
RUNNING = ReplicaStatus("r", RuntimeState.RUNNING, {}, "i1", "n", url="http://toy")
PASS = Probe(ProbeOutcome.READY)
TOKEN = Probe(ProbeOutcome.READY, generated=True)
SICK = Probe(ProbeOutcome.UNHEALTHY, "hangs")


def here(state: ReplicaState, **changes: object) -> Replica:
    return replica("r", state=state, incarnation="i1", state_since=NOW, **changes)


def test_every_state_has_a_row_and_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(S)
    reached = {S.PENDING}
    for _ in S:
        reached |= {to for state in reached for to in TRANSITIONS[state]}
    assert reached == set(S)
    assert {s for s in S if s.final} == {S.STOPPED, S.FAILED, S.LOST}


def test_a_replica_is_launched_until_it_has_a_place_and_says_what_it_waits_for() -> None:
    waiting = replica("r", state=S.PENDING)
    assert plan(waiting, Seen(), NOW, LIMITS).command is Command.LAUNCH
    full = replace(RUNNING, state=RuntimeState.PENDING, reason="all 8 slots are taken")
    step = plan(waiting, Seen(process=full), NOW, LIMITS)
    assert (step.after.state, step.after.reason) == (S.PENDING, "all 8 slots are taken")
    pulls = replace(RUNNING, state=RuntimeState.FETCHING, reason="pulling 1.0 of 2.0 GB")
    step = plan(waiting, Seen(process=pulls), NOW, LIMITS)
    assert (step.after.state, step.after.reason) == (S.PENDING, "pulling 1.0 of 2.0 GB")
    assert step.command is None
    step = plan(here(S.STARTING), Seen(process=pulls), NOW, LIMITS)
    assert (step.after.state, step.after.reason) == (S.STARTING, "pulling 1.0 of 2.0 GB")
    assert plan(step.after, Seen(process=RUNNING), NOW, LIMITS).after.reason == ""
    step = plan(waiting, Seen(process=RUNNING), NOW, LIMITS)
    assert (step.after.state, step.after.url, step.after.incarnation) == (
        S.STARTING,
        "http://toy",
        "i1",
    )


def test_two_passes_in_a_row_with_a_real_token_let_it_in() -> None:
    one = plan(here(S.STARTING), Seen(process=RUNNING, probe=PASS), NOW, LIMITS).after
    assert one.state is S.WARMING
    one = plan(one, Seen(process=RUNNING, probe=PASS), NOW, LIMITS).after
    assert one.probe_passes == 0
    one = plan(one, Seen(process=RUNNING, probe=TOKEN), NOW, LIMITS).after
    assert (one.state, one.probe_passes) == (S.WARMING, 1)
    back = plan(one, Seen(process=RUNNING, probe=SICK), NOW, LIMITS).after
    assert (back.state, back.probe_passes) == (S.WARMING, 0)
    one = plan(one, Seen(process=RUNNING, probe=PASS), NOW, LIMITS).after
    assert (one.state, one.ready_at) == (S.READY, NOW)


def test_an_engine_that_answers_questions_with_errors_is_given_up_long_before_the_warming_limit() -> (
    None
):
    """An engine that is up and cannot produce a token is a verdict, not a wait: three tries took 15 minutes."""
    refused = Seen(process=RUNNING, probe=replace(SICK, detail="answers 500", generated=True))
    one = here(S.WARMING)
    late = NOW + timedelta(seconds=LIMITS.warm_doubt_s)
    for _ in range(LIMITS.warm_failures_max + 5):
        one = plan(one, refused, late - timedelta(seconds=1), LIMITS).after
        assert one.state is S.WARMING
    step = plan(one, refused, late, LIMITS)
    assert (step.after.state, step.command) == (S.FAILING, Command.STOP)
    assert step.after.reason == "10 questions in a row brought no token: answers 500"


def test_a_first_token_that_needs_time_or_comes_between_failures_keeps_a_warming_replica() -> None:
    refused = Seen(process=RUNNING, probe=replace(SICK, generated=True))
    late = NOW + timedelta(seconds=LIMITS.warm_doubt_s)
    slow = here(S.WARMING)
    for _ in range(LIMITS.warm_failures_max - 1):
        slow = plan(slow, refused, late, LIMITS).after
        assert slow.state is S.WARMING
    slow = plan(slow, Seen(process=RUNNING, probe=TOKEN), late, LIMITS).after
    slow = plan(slow, refused, late, LIMITS).after
    assert (slow.state, slow.probe_failures) == (S.WARMING, 1)


@pytest.mark.parametrize("state", [S.STARTING, S.WARMING, S.READY])
def test_a_wrong_identity_is_given_up_at_once(state: ReplicaState) -> None:
    wrong = Probe(ProbeOutcome.WRONG_IDENTITY, "serves another digest")
    step = plan(here(state), Seen(process=RUNNING, probe=wrong), NOW, LIMITS)
    assert (step.after.state, step.command) == (S.FAILING, Command.STOP)


@pytest.mark.parametrize(
    ("process", "state"),
    [
        (None, S.LOST),
        (replace(RUNNING, state=RuntimeState.LOST), S.LOST),
        (replace(RUNNING, state=RuntimeState.EXITED, exit_code=-9), S.FAILED),
        (replace(RUNNING, state=RuntimeState.EXITED, exit_code=None), S.LOST),
        (replace(RUNNING, state=RuntimeState.STOPPING), S.DRAINING),
        (replace(RUNNING, incarnation="i2"), S.FAILING),
    ],
)
def test_a_ready_replica_whose_process_changed_is_ready_no_longer(
    process: ReplicaStatus | None, state: ReplicaState
) -> None:
    assert plan(here(S.READY), Seen(process=process), NOW, LIMITS).after.state is state


def test_while_the_runtime_is_away_nothing_is_lost() -> None:
    for state in S:
        one = here(state)
        assert plan(one, Seen(runtime_away=True), NOW, LIMITS).after.state is state


def test_three_failed_probes_in_a_row_take_it_out() -> None:
    one = here(S.READY)
    for _ in range(2):
        one = plan(one, Seen(process=RUNNING, probe=SICK), NOW, LIMITS).after
        assert one.state is S.READY
    healthy = plan(one, Seen(process=RUNNING, probe=PASS), NOW, LIMITS).after
    assert healthy.probe_failures == 0
    step = plan(one, Seen(process=RUNNING, probe=SICK), NOW, LIMITS)
    assert (step.after.state, step.command) == (S.FAILING, Command.STOP)
    assert step.after.reason == "3 probes in a row failed: hangs"


def test_three_times_on_the_brink_within_ten_minutes_is_the_end_too() -> None:
    one = here(S.READY)
    at = NOW
    for flip in range(1, 4):
        for probe in (SICK, SICK, PASS):
            at += timedelta(seconds=2)
            one = plan(one, Seen(process=RUNNING, probe=probe), at, LIMITS).after
            if one.state is not S.READY:
                break
        assert len(one.flips) == flip
    assert one.state is S.FAILING
    assert one.reason == "failed its probes 3 times within 600 s: hangs"


def test_on_the_brink_seldom_or_with_all_the_others_is_forgiven() -> None:
    one = here(S.READY)
    at = NOW
    for _ in range(9):
        at += timedelta(minutes=5)
        for probe in (SICK, SICK, PASS):
            one = plan(one, Seen(process=RUNNING, probe=probe), at, LIMITS).after
    assert one.state is S.READY
    guarded = Seen(process=RUNNING, probe=SICK, guarded=True)
    alone = here(S.READY)
    for _ in range(9):
        alone = plan(alone, guarded, NOW, LIMITS).after
        alone = plan(alone, guarded, NOW, LIMITS).after
        alone = plan(alone, Seen(process=RUNNING, probe=PASS, guarded=True), NOW, LIMITS).after
    assert (alone.state, alone.flips) == (S.READY, ())


def test_when_most_fail_at_once_only_a_failed_generation_convinces() -> None:
    one = here(S.READY, probe_failures=3)
    guarded = Seen(process=RUNNING, probe=SICK, guarded=True)
    assert plan(one, guarded, NOW, LIMITS).after.state is S.READY
    convinced = replace(guarded, probe=replace(SICK, generated=True))
    assert plan(one, convinced, NOW, LIMITS).after.state is S.FAILING


def test_the_guard_is_up_when_more_than_half_of_an_endpoint_fails() -> None:
    sick, well = serving("a", probe_failures=1), serving("b")
    assert mass_failures([sick, well]) == frozenset()
    assert mass_failures([sick, well, serving("c", probe_failures=2)]) == {"chat"}
    assert mass_failures([sick]) == {"chat"}


def test_it_counts_as_routed_when_every_gateway_has_the_table_or_none_lives() -> None:
    one = here(S.READY, routed_generation=7)
    assert plan(one, Seen(process=RUNNING, routes_acked=6), NOW, LIMITS).after.routed_at is None
    for acked in (7, 8, None):
        step = plan(one, Seen(process=RUNNING, routes_acked=acked), NOW, LIMITS)
        assert step.after.routed_at == NOW


def test_a_drain_waits_for_the_ack_then_for_requests_and_never_beyond_its_deadline() -> None:
    one = here(S.DRAINING)
    seen = Seen(process=RUNNING, routes_acked=4, in_flight=2)
    assert plan(one, seen, NOW, LIMITS).after == one
    one = replace(one, unrouted_generation=5)
    assert plan(one, seen, NOW, LIMITS).after == one
    seen = replace(seen, routes_acked=5)
    one = plan(one, seen, NOW, LIMITS).after
    assert one.drain_deadline == NOW + timedelta(seconds=LIMITS.drain_s)
    assert plan(one, seen, NOW, LIMITS).command is None
    idle = plan(one, replace(seen, in_flight=0), NOW, LIMITS)
    assert (idle.after.state, idle.command) == (S.STOPPING, Command.STOP)
    late = plan(one, seen, one.drain_deadline, LIMITS)
    assert (late.after.state, late.command) == (S.STOPPING, Command.STOP)
    assert late.after.reason == "2 requests cut at the drain deadline"


def test_a_gateway_that_never_acknowledges_holds_a_drain_up_for_a_while_only() -> None:
    one = here(S.DRAINING, unrouted_generation=5)
    later = NOW + timedelta(seconds=LIMITS.unroute_ack_s)
    step = plan(one, Seen(process=RUNNING, routes_acked=4), later, LIMITS)
    assert step.after.state is S.STOPPING


def test_it_is_stopped_only_when_its_process_is_confirmed_dead() -> None:
    for state, final in ((S.STOPPING, S.STOPPED), (S.FAILING, S.FAILED)):
        one = here(state, reason="why")
        dying = replace(RUNNING, state=RuntimeState.STOPPING)
        assert plan(one, Seen(process=RUNNING), NOW, LIMITS).command is Command.STOP
        assert plan(one, Seen(process=dying), NOW, LIMITS).command is None
        overdue = NOW + timedelta(seconds=LIMITS.stop_grace_s + LIMITS.stop_alarm_s)
        alarm = plan(one, Seen(process=dying), overdue, LIMITS)
        assert (alarm.after.state, alarm.command) == (state, Command.STOP)
        dead = replace(RUNNING, state=RuntimeState.EXITED)
        step = plan(one, Seen(process=dead), NOW, LIMITS)
        assert (step.after.state, step.after.reason) == (final, "why")


def test_a_starting_replica_is_probed_often_and_a_ready_one_seldom() -> None:
    def at(
        one: Replica, since_s: float, *, generated_s: float = 0.0, **more: object
    ) -> bool | None:
        asked = Asked(at_s=100.0 - since_s, generated_s=100.0 - generated_s)
        return due(one, asked, 100.0, LIMITS, **{"in_flight": 0, "guarded": False} | more)

    assert at(here(S.STARTING), 0.1) is None
    assert at(here(S.STARTING), 0.2) is False
    assert at(here(S.WARMING), 0.2) is True
    assert at(here(S.WARMING, probe_passes=1), 0.2) is False
    assert at(here(S.READY), 1.0) is None
    assert at(here(S.READY), 2.0) is False
    assert at(here(S.READY), 2.0, generated_s=31.0) is True
    assert at(here(S.READY), 2.0, generated_s=31.0, in_flight=1) is False
    assert at(here(S.READY, probe_failures=2), 2.0, guarded=True) is True
    assert at(here(S.READY, probe_failures=2), 2.0, generated_s=31.0) is False
    for state in (S.PENDING, S.DRAINING, S.STOPPING, S.FAILING):
        assert at(here(state), 60.0) is None


def test_a_stranger_on_its_port_cannot_fill_the_reason() -> None:
    loud = Probe(ProbeOutcome.WRONG_IDENTITY, "it serves " + "x" * 100_000)
    after = plan(here(S.WARMING), Seen(process=RUNNING, probe=loud), NOW, LIMITS).after
    assert (after.state, len(after.reason)) == (S.FAILING, REASON_CHARS_MAX)
