"""Decisions of the rollout planner, case by case (reliability B3 and its edge cases)."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from toys.world import LIMITS, START, deployment, endpoint, replica, serving
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import TRANSITIONS, Deployment, RolloutLimits, RolloutStatus
from weighbridge.rollouts.moves import AdoptReplica, DrainReplica, StartReplica, StopReplica
from weighbridge.rollouts.plan import Plan, Seen, plan
from weighbridge.rollouts.steady import steady_plan
from weighbridge.runtimes.base import PLACED

NOW = START + timedelta(hours=1)
BASE = deployment(1, status=RolloutStatus.DONE)
V2 = {"deployment_id": "d2", "version_id": "v2", "version_number": 2}
S = ReplicaState


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def running(**changes: object) -> Deployment:
    values: dict[str, object] = {
        "status": RolloutStatus.IN_PROGRESS,
        "base_deployment_id": "d1",
        "replicas": 2,
        "max_unavailable": 0,
        "max_surge": 1,
        "started_at": NOW,
        "progress_at": NOW,
    }
    return deployment(2, **(values | changes))


def decide(
    one: Deployment,
    *replicas: Replica,
    at: datetime = NOW,
    base: Deployment | None = BASE,
    limits: RolloutLimits = LIMITS,
    deleted: bool = False,
    fetching: str = "",
) -> Plan:
    seen = Seen(one, base, endpoint(2, 0, 1), deleted, replicas, fetching=fetching)
    return plan(seen, at, limits)


def test_every_status_has_a_row_and_every_final_one_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(RolloutStatus)
    reached = {RolloutStatus.NOT_STARTED}
    for _ in RolloutStatus:
        reached |= {to for status in reached for to in TRANSITIONS[status]}
    assert reached == set(RolloutStatus)
    assert {s for s in RolloutStatus if s.final} == {
        RolloutStatus.DONE,
        RolloutStatus.ERROR,
        RolloutStatus.CANCELLED,
        RolloutStatus.ROLLED_BACK,
    }


def test_the_start_pins_the_shape_and_the_base() -> None:
    started = decide(deployment(2)).after
    assert started.status is RolloutStatus.IN_PROGRESS
    assert (started.replicas, started.max_unavailable, started.max_surge) == (2, 0, 1)
    assert started.base_deployment_id == "d1"


def test_with_surge_a_new_replica_starts_before_an_old_one_goes() -> None:
    step = decide(running(), serving("a"), serving("b"))
    assert step.actions == (StartReplica("d2"),)
    assert step.after.reason == "0/2 replicas ready on version 2"


def test_without_surge_an_old_one_goes_first() -> None:
    step = decide(running(max_unavailable=1, max_surge=0), serving("a"), serving("b"))
    assert [type(a) for a in step.actions] == [DrainReplica]


def test_a_new_replica_counts_only_after_min_ready_and_once_it_is_routed() -> None:
    young = serving("n", since=after(-1), **V2)
    old = (serving("a"), serving("b"))
    assert decide(running(), *old, young).actions == ()
    unrouted = replace(young, routed_at=None)
    assert decide(running(), *old, unrouted, at=after(5)).actions == ()
    step = decide(running(), *old, young, at=after(1))
    assert [type(a) for a in step.actions] == [DrainReplica]
    assert step.after.updated_replicas == 1


def test_a_draining_replica_keeps_its_slot() -> None:
    step = decide(
        running(updated_max=1),
        serving("n", **V2),
        serving("a"),
        replica("b", state=S.DRAINING),
    )
    assert step.actions == ()


def test_a_lost_base_replica_is_replaced_by_the_base_until_the_target_is_proven() -> None:
    lost = replica("b", state=S.LOST, state_since=after(-60))
    new = replica("n", state=S.STARTING, **V2)
    assert decide(running(), serving("a"), lost, new).actions == (StartReplica("d1"),)
    proven = serving("n", **V2)
    step = decide(running(updated_max=1), serving("a"), lost, proven)
    assert step.actions == (StartReplica("d2"),)


def test_a_base_replica_on_its_way_up_is_kept_until_the_target_is_proven() -> None:
    coming = replica("b", state=S.STARTING)
    new = replica("n", state=S.STARTING, **V2)
    assert decide(running(), serving("a"), coming, new).actions == ()
    step = decide(running(), serving("a"), coming, serving("n", **V2))
    assert step.actions == (StopReplica("b"),)


def test_unhealthy_and_unproven_replicas_go_first() -> None:
    step = decide(
        running(updated_max=1, replicas=2, max_unavailable=1),
        serving("n", **V2),
        serving("old"),
        serving("young", since=after(-1)),
        replica("stuck", state=S.WARMING),
    )
    assert step.actions[0] == StopReplica("stuck")
    assert DrainReplica("young") in step.actions


def test_the_same_version_again_adopts_and_is_done_at_once() -> None:
    again = running(version_id="v1")
    step = decide(again, serving("a"), serving("b"))
    assert step.after.status is RolloutStatus.DONE
    assert set(step.actions) == {AdoptReplica("a", "d2"), AdoptReplica("b", "d2")}


def test_the_finished_state_must_hold_for_the_bake() -> None:
    new = (serving("m", since=after(-3), **V2), serving("n", since=after(-3), **V2))
    step = decide(running(updated_max=2), *new)
    assert step.after.status is RolloutStatus.IN_PROGRESS
    assert step.next_at == after(2)
    assert decide(running(updated_max=2), *new, at=after(2)).after.status is RolloutStatus.DONE


def test_the_failure_budget_is_counted_once_and_then_turns_the_rollout_back() -> None:
    failed = replica("n", state=S.FAILED, state_since=NOW, reason="exited with code 1", **V2)
    step = decide(running(failures=1), serving("a"), serving("b"), failed)
    assert step.after.status is RolloutStatus.ROLLING_BACK
    assert step.after.error_message == (
        "2 replicas of version 2 failed; the last one: exited with code 1"
    )
    assert step.counted == ("n",)
    again = decide(
        running(failures=1), serving("a"), serving("b"), replace(failed, failure_counted=True)
    )
    assert again.after.failures == 1


def test_a_replacement_waits_for_its_back_off() -> None:
    failed = replica("n", state=S.FAILED, state_since=NOW, failure_counted=True, **V2)
    old = (serving("a"), serving("b"))
    step = decide(running(failures=1), *old, failed)
    assert (step.actions, step.next_at) == ((), after(1))
    assert decide(running(failures=1), *old, failed, at=after(1)).actions == (StartReplica("d2"),)


def test_a_lost_replica_is_not_held_against_its_version() -> None:
    lost = replica("n", state=S.LOST, state_since=NOW, **V2)
    step = decide(running(failures=1), serving("a"), serving("b"), lost)
    assert (step.after.failures, step.counted) == (1, ("n",))


def test_only_a_new_maximum_sets_the_progress_clock_back() -> None:
    one = running(updated_max=1, progress_at=after(-100))
    flapping = (serving("a"), serving("b"), serving("n", **V2))
    assert decide(one, *flapping).after.progress_at == after(-100)
    two = (*flapping, serving("m", **V2))
    assert decide(one, *two).after.progress_at == NOW


def test_no_progress_turns_the_rollout_back_but_waiting_for_a_drain_does_not() -> None:
    stuck = running(progress_at=after(-120), updated_max=1)
    new, slow = serving("n", **V2), replica("m", state=S.WARMING, **V2)
    step = decide(stuck, serving("a"), new, slow)
    assert step.after.status is RolloutStatus.ROLLING_BACK
    draining = replica("b", state=S.DRAINING)
    waiting = decide(stuck, serving("a"), new, draining)
    assert waiting.after.status is RolloutStatus.IN_PROGRESS
    assert waiting.after.progress_at == NOW


def test_the_total_limit_turns_the_rollout_back_in_any_case() -> None:
    late = running(started_at=after(-2_000), updated_max=1)
    step = decide(late, serving("a"), serving("n", **V2), replica("b", state=S.DRAINING))
    assert step.after.status is RolloutStatus.ROLLING_BACK


def test_without_a_place_the_rollout_says_so_and_ends_in_error_with_nothing_touched() -> None:
    old = (serving("a"), serving("b"))
    waits = replica("n", state=S.PENDING, reason="all 2 slots are taken", created_at=NOW, **V2)
    step = decide(running(), *old, waits, at=after(59))
    assert step.after.error_message == "waiting for capacity: all 2 slots are taken"
    step = decide(running(), *old, waits, at=after(60))
    assert step.after.status is RolloutStatus.ERROR
    assert step.actions == ()


def test_weights_on_their_way_are_no_want_of_capacity_and_have_the_same_limit() -> None:
    old = (serving("a"), serving("b"))
    words = "pulling 3.1 of 15.0 GB at 0.42 GB/s"
    pulls = replica("n", state=S.PENDING, reason=words, created_at=NOW, **V2)
    step = decide(running(), *old, pulls, at=after(59))
    assert step.after.reason == f"0/2 replicas ready on version 2; {words}"
    assert (step.after.error_message, step.actions) == (words, ())
    step = decide(running(), *old, pulls, at=after(60))
    assert step.after.status is RolloutStatus.ERROR
    assert step.after.error_message == f"the weights were not on the node within 60 s: {words}"


def test_nobody_is_drained_while_the_weights_come_to_the_nodes_of_what_is_replaced() -> None:
    old = (serving("a"), serving("b"))
    one_down = running(max_surge=0, max_unavailable=1)
    words = "weights on their way: n1 pulling 3.1 of 15.0 GB"
    step = decide(one_down, *old, fetching=words)
    assert step.actions == ()
    assert step.after.reason == f"0/2 replicas ready on version 2; {words}"
    assert [type(one) for one in decide(one_down, *old).actions] == [DrainReplica]
    new = (serving("n", **V2), serving("m", **V2))
    held = decide(running(), *old, *new, fetching=words)
    assert held.after.status is RolloutStatus.IN_PROGRESS
    assert not [one for one in held.actions if isinstance(one, DrainReplica)]


def test_weights_on_their_way_hold_a_rollout_no_longer_than_a_wait_for_a_place() -> None:
    old = (serving("a"), serving("b"))
    began = running(max_surge=0, max_unavailable=1, started_at=NOW, progress_at=NOW)
    excused = decide(began, *old, fetching="weights on their way", at=after(59))
    assert excused.after.progress_at == after(59)
    late = decide(began, *old, fetching="weights on their way", at=after(60))
    assert late.after.progress_at == NOW


def test_a_replica_with_a_place_waits_for_nothing_and_the_runtime_is_no_capacity() -> None:
    old = (serving("a"), serving("b"))
    placed = replica("n", state=S.PENDING, reason=PLACED, created_at=NOW, **V2)
    step = decide(running(), *old, placed, at=after(1))
    assert step.after.error_message is None
    assert step.after.reason == "0/2 replicas ready on version 2"
    away = replica("n", state=S.PENDING, reason="waiting for the runtime", created_at=NOW, **V2)
    assert decide(running(), *old, away).after.error_message == "waiting for the runtime"


def test_a_first_deployment_that_fails_has_nothing_to_go_back_to() -> None:
    failed = replica("m", state=S.FAILED, state_since=NOW, **V2)
    first = running(base_deployment_id=None, failures=1)
    step = decide(first, serving("n", **V2), failed, base=None)
    assert step.after.status is RolloutStatus.ERROR
    assert step.actions == ()


def test_cancelling_a_first_deployment_leaves_nothing() -> None:
    first = running(base_deployment_id=None, cancel_requested=True)
    back = decide(first, serving("n", **V2), base=None)
    assert back.after.status is RolloutStatus.ROLLING_BACK
    step = decide(back.after, serving("n", **V2), base=None)
    assert step.after.status is RolloutStatus.CANCELLED
    assert step.actions == (DrainReplica("n"),)


def test_a_deployment_that_waits_is_cancelled_without_starting() -> None:
    step = decide(deployment(2, cancel_requested=True), serving("a"), serving("b"))
    assert step.after.status is RolloutStatus.CANCELLED
    assert step.actions == ()


@pytest.mark.parametrize(
    ("changes", "at", "ended"),
    [
        ({"restore_failures": 1}, NOW, "1 more failure reaches the budget"),
        ({}, after(240), "no progress"),
    ],
)
def test_a_rollback_that_fails_ends_in_error_and_touches_nothing(
    changes: dict[str, int], at: datetime, ended: str
) -> None:
    back = running(status=RolloutStatus.ROLLING_BACK, error_message="first cause", **changes)
    failed = replica("b", state=S.FAILED, state_since=NOW)
    step = decide(back, serving("n", **V2), failed, at=at)
    assert step.after.status is RolloutStatus.ERROR, ended
    assert (step.after.error_message or "").startswith("first cause; going back failed")
    assert step.actions == ()


def test_a_deleted_endpoint_ends_whatever_runs_on_it() -> None:
    for one in (deployment(2), running(), running(status=RolloutStatus.ROLLING_BACK)):
        assert decide(one, serving("a"), deleted=True).after.status is RolloutStatus.ERROR


def test_upkeep_replaces_what_is_missing_with_the_base_and_backs_off() -> None:
    failed = replica("b", state=S.FAILED, state_since=NOW)
    waiting = steady_plan(BASE, (serving("a"), failed), 2, NOW, LIMITS, surge=1)
    assert (waiting.actions, waiting.next_at) == ((), after(1))
    later = steady_plan(BASE, (serving("a"), failed), 2, after(1), LIMITS, surge=1)
    assert later.actions == (StartReplica("d1"),)


def test_upkeep_counts_a_failure_of_all_replicas_as_one_strike() -> None:
    failed = tuple(replica(n, state=S.FAILED, state_since=NOW) for n in "abcd")
    assert steady_plan(BASE, failed, 4, NOW, LIMITS, surge=1).next_at == after(1)
    assert steady_plan(BASE, failed, 1, NOW, LIMITS, surge=1).next_at == after(10)


def test_after_a_lost_node_upkeep_does_not_wait_for_what_failures_before_it_cost() -> None:
    """All that ran on a machine whose power was cut is lost at once, and comes back at once."""
    failed = tuple(replica(n, state=S.FAILED, state_since=after(-20)) for n in "abcd")
    lost = tuple(replica(n, state=S.LOST, state_since=NOW) for n in "xy")
    assert steady_plan(BASE, (*failed, *lost), 2, NOW, LIMITS, surge=1).next_at == after(1)
    just_failed = replica("e", state=S.FAILED, state_since=NOW)
    assert steady_plan(
        BASE, (*failed, *lost, just_failed), 2, NOW, LIMITS, surge=1
    ).next_at == after(LIMITS.upkeep_backoff_s[2])


def test_upkeep_leaves_ready_replicas_of_any_version_and_stops_the_rest_of_a_failed_rollout() -> (
    None
):
    mixed = (serving("a"), serving("n", **V2), replica("m", state=S.WARMING, **V2))
    assert steady_plan(BASE, mixed, 2, NOW, LIMITS, surge=1).actions == (StopReplica("m"),)


def test_upkeep_shrinks_by_the_least_useful_first_and_drains_a_deleted_endpoint() -> None:
    crowd = (serving("a"), serving("young", since=NOW), replica("m", state=S.STARTING))
    assert steady_plan(BASE, crowd, 1, NOW, LIMITS, surge=1).actions == (
        DrainReplica("young"),
        StopReplica("m"),
    )
    gone = steady_plan(BASE, crowd, 0, NOW, LIMITS, surge=1).actions
    assert {a.replica_id for a in gone if not isinstance(a, StartReplica)} == {"a", "young", "m"}


def test_upkeep_starts_nothing_beyond_the_slots_while_failing_replicas_still_hold_theirs() -> None:
    """R3, R19: an engine that is not confirmed dead holds its accelerator."""
    failing = tuple(replica(n, state=S.FAILING) for n in "abc")
    one = steady_plan(BASE, failing, 3, after(60), LIMITS, surge=1)
    assert one.actions == (StartReplica("d1"),)
    assert steady_plan(BASE, failing, 3, after(60), LIMITS, surge=0).actions == ()


def test_the_same_version_again_starts_no_spare_of_itself() -> None:
    """R17: what is missing is replaced once, not once as the target and once as the base."""
    again = replace(running(), version_id=BASE.version_id)
    assert decide(again).actions == (StartReplica(again.id),) * 2
    started = replica("n", state=S.STARTING, deployment_id=again.id)
    assert decide(again, started).actions == (StartReplica(again.id),)


def test_without_a_base_upkeep_starts_nothing() -> None:
    assert steady_plan(None, (serving("a"),), 3, NOW, LIMITS, surge=1).actions == ()


def test_the_budget_is_a_quarter_of_the_replicas_and_at_least_two() -> None:
    assert [LIMITS.failures_max(n) for n in (1, 4, 8, 9, 40)] == [2, 2, 2, 3, 10]
