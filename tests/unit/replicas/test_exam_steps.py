"""A replica with acceptance probes: it waits for its exam, is let in by it or given up for it."""

from datetime import timedelta

from toys.world import START, replica
from weighbridge.acceptance.model import Verdict
from weighbridge.engines.base import ProbeOutcome
from weighbridge.replicas.model import Replica, ReplicaLimits, ReplicaState
from weighbridge.replicas.plan import EXAM_GOES_ON, Command, Probe, Seen, plan
from weighbridge.replicas.telling import step_events
from weighbridge.runtimes.base import ReplicaStatus, RuntimeState

NOW = START + timedelta(hours=1)
LIMITS = ReplicaLimits()
S = ReplicaState
RUNNING = ReplicaStatus("r", RuntimeState.RUNNING, {}, "i1", "n", url="http://toy")
PASS = Probe(ProbeOutcome.READY)
PASSED = Verdict(passed=True, detail="", probes=3, notes=("drift: not checked",))
FAILED = Verdict(passed=False, detail="acceptance probe 'who' failed: differs", probes=3)


def warm(passes: int = 2) -> Replica:
    one = replica("r", state=S.WARMING, incarnation="i1", state_since=NOW)
    for probe in (Probe(ProbeOutcome.READY, generated=True), PASS)[:passes]:
        seen = Seen(process=RUNNING, probe=probe, exam_waits=True)
        one = plan(one, seen, NOW, LIMITS).after
    return one


def test_a_warm_replica_waits_for_its_exam_and_says_so() -> None:
    one = warm()
    assert (one.state, one.reason, one.probe_passes) == (S.WARMING, EXAM_GOES_ON, 2)
    again = plan(one, Seen(process=RUNNING, probe=PASS, exam_waits=True), NOW, LIMITS).after
    assert again == one


def test_a_passed_exam_lets_it_in_once_its_probes_have_passed_too() -> None:
    early = plan(warm(1), Seen(process=RUNNING, exam=PASSED), NOW, LIMITS)
    assert early.after.state is S.WARMING
    step = plan(warm(), Seen(process=RUNNING, exam=PASSED), NOW, LIMITS)
    assert step.after.state is S.READY
    told = step_events(warm(), step, NOW)
    assert [one["event"] for one in told] == ["acceptance", "replica"]
    assert (told[0]["passed"], told[0]["notes"]) == (True, ["drift: not checked"])


def test_a_failed_exam_ends_it_with_the_difference_as_its_reason() -> None:
    step = plan(warm(), Seen(process=RUNNING, exam=FAILED), NOW, LIMITS)
    assert (step.after.state, step.after.reason) == (S.FAILING, FAILED.detail)
    assert step.command is Command.STOP
    told = step_events(warm(), step, NOW)
    assert (told[0]["event"], told[0]["passed"], told[0]["detail"]) == (
        "acceptance",
        False,
        FAILED.detail,
    )


def test_the_wait_for_its_turn_is_not_on_the_clock_of_its_start() -> None:
    waits = Seen(process=RUNNING, probe=PASS, exam_waits=True)
    late = NOW + timedelta(seconds=LIMITS.warm_s + LIMITS.exam_turn_s)
    assert plan(warm(), waits, late, LIMITS).after.state is S.WARMING
    assert plan(warm(), Seen(process=RUNNING, exam=PASSED), late, LIMITS).after.state is S.READY


def test_a_probe_that_fails_during_its_exam_costs_it_nothing_but_two_passes_more() -> None:
    late = NOW + timedelta(seconds=LIMITS.warm_s + 1)
    busy = Seen(process=RUNNING, probe=Probe(ProbeOutcome.UNHEALTHY, "slow"), exam_waits=True)
    one = plan(warm(), busy, late, LIMITS).after
    assert (one.state, one.probe_passes) == (S.WARMING, 0)
    one = plan(one, busy, late, LIMITS).after
    assert one.state is S.WARMING
    for probe, state in ((Probe(ProbeOutcome.READY, generated=True), S.WARMING), (PASS, S.READY)):
        one = plan(one, Seen(process=RUNNING, probe=probe, exam=PASSED), late, LIMITS).after
        assert one.state is state


def test_one_that_never_was_warm_is_given_up_as_if_it_had_no_exam() -> None:
    late = NOW + timedelta(seconds=LIMITS.warm_s)
    step = plan(warm(1), Seen(process=RUNNING, exam_waits=True), late, LIMITS)
    assert step.after.state is S.FAILING


def test_an_exam_that_does_not_end_is_not_waited_for_for_ever() -> None:
    limit_s = LIMITS.exam_turn_s + LIMITS.exam_s
    waits = Seen(process=RUNNING, exam_waits=True)
    assert (
        plan(warm(), waits, NOW + timedelta(seconds=limit_s - 1), LIMITS).after.state is S.WARMING
    )
    step = plan(warm(), waits, NOW + timedelta(seconds=limit_s), LIMITS)
    assert step.after.state is S.FAILING
    assert EXAM_GOES_ON in step.after.reason
