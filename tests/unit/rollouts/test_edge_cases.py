"""One test per edge case of a rollout that the planners decide alone; docs/invariants.md lists them all."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from toys.world import LIMITS, START, deployment, endpoint, replica, serving
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.rollouts.moves import AdoptReplica, DrainReplica, StartReplica, StopReplica
from weighbridge.rollouts.plan import Plan, Seen, plan
from weighbridge.rollouts.steady import steady_plan

NOW = START + timedelta(hours=1)
BASE = deployment(1, status=RolloutStatus.DONE)
V2 = {"deployment_id": "d2", "version_id": "v2", "version_number": 2}
V3 = {"deployment_id": "d3", "version_id": "v3", "version_number": 3}
S = ReplicaState


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def running(number: int = 2, **changes: object) -> Deployment:
    values: dict[str, object] = {
        "status": RolloutStatus.IN_PROGRESS,
        "base_deployment_id": "d1",
        "replicas": 2,
        "max_unavailable": 0,
        "max_surge": 1,
        "started_at": NOW,
        "progress_at": NOW,
    }
    return deployment(number, **(values | changes))


def decide(
    one: Deployment,
    *replicas: Replica,
    at: datetime = NOW,
    base: Deployment | None = BASE,
    withdrawn: bool = False,
) -> Plan:
    seen = Seen(one, base, endpoint(2, 0, 1), False, replicas, withdrawn)
    return plan(seen, at, LIMITS)


def test_a_version_that_was_withdrawn_while_it_waited_ends_in_error_before_anything_is_touched() -> (
    None
):
    step = decide(deployment(2), serving("a"), serving("b"), withdrawn=True)
    assert (step.after.status, step.actions) == (RolloutStatus.ERROR, ())
    assert "upload it again" in (step.after.error_message or "")


def test_a_replica_that_fails_while_the_finished_state_is_watched_turns_the_rollout_back() -> None:
    dead = replica("n", state=S.FAILED, reason="exited with code 9", **V2)
    step = decide(running(updated_max=2), serving("m", **V2), dead)
    assert step.after.status is RolloutStatus.ROLLING_BACK
    assert step.after.error_message == (
        "a replica of version 2 failed after all were ready: exited with code 9"
    )
    lost = replace(dead, state=S.LOST)
    assert decide(running(updated_max=2), serving("m", **V2), lost).after.status is (
        RolloutStatus.IN_PROGRESS
    )


def test_a_first_deployment_whose_replica_fails_at_the_end_replaces_it() -> None:
    dead = replica("n", state=S.FAILED, state_since=after(-60), **V2)
    step = decide(running(updated_max=2), serving("m", **V2), dead, base=None)
    assert (step.after.status, step.actions) == (
        RolloutStatus.IN_PROGRESS,
        (StartReplica("d2"),),
    )


def test_the_same_version_under_other_engine_settings_is_rolled_out_anew() -> None:
    again = running(version_id="v1", settings_digest="new")
    step = decide(again, serving("a"), serving("b"))
    assert step.actions == (StartReplica("d2"),)
    half = serving("n", deployment_id="d2", settings_digest="new")
    step = decide(again, serving("a"), serving("b"), half)
    assert [type(a) for a in step.actions] == [DrainReplica]
    assert step.after.updated_replicas == 1


def test_the_same_version_again_repairs_an_endpoint_that_an_error_left_mixed() -> None:
    again = running(3, version_id="v1")
    step = decide(again, serving("a"), serving("x", **V2))
    assert step.actions == (AdoptReplica("a", "d3"), StartReplica("d3"))


def test_a_replica_that_fails_its_probes_counts_as_neither_available_nor_progress() -> None:
    doubtful = serving("n", probe_failures=1, **V2)
    step = decide(running(), serving("a"), serving("b"), doubtful)
    assert (step.after.updated_replicas, step.actions) == (0, ())


def test_a_replica_back_from_the_brink_starts_its_first_seconds_anew() -> None:
    back = serving("n", flips=(after(-1),), **V2)
    assert decide(running(), serving("a"), serving("b"), back).after.updated_replicas == 0
    later = decide(running(), serving("a"), serving("b"), back, at=after(1))
    assert later.after.updated_replicas == 1


def test_flapping_never_sets_the_progress_clock_back() -> None:
    once = running(updated_max=1, progress_at=after(-119))
    flapping = serving("n", flips=(after(-30),), **V2)
    step = decide(once, serving("a"), flapping)
    assert step.after.progress_at == once.progress_at
    step = decide(once, serving("a"), flapping, at=after(1))
    assert step.after.status is RolloutStatus.ROLLING_BACK


def test_a_next_rollout_starts_from_the_mix_that_a_failed_rollback_left() -> None:
    mixed = (serving("a"), serving("x", **V2))
    step = decide(running(3), *mixed)
    assert step.actions == (StartReplica("d3"),)
    assert step.after.base_deployment_id == "d1"
    step = decide(running(3, updated_max=1), *mixed, serving("n", **V3))
    assert step.actions == (DrainReplica("x"),)


def test_the_mix_goes_back_to_the_last_good_version_when_the_next_rollout_fails_too() -> None:
    back = running(3, status=RolloutStatus.ROLLING_BACK, error_message="crashed")
    step = decide(back, serving("a"), serving("x", **V2))
    assert step.actions == (StartReplica("d1"),)


def test_the_version_that_was_rolled_back_from_may_be_deployed_again() -> None:
    step = decide(deployment(3, version=2), serving("a"), serving("b"))
    assert step.after.status is RolloutStatus.IN_PROGRESS


def test_a_new_size_waits_for_the_end_of_the_rollout() -> None:
    bigger = endpoint(5, 0, 1)
    new = (serving("m", **V2), serving("n", **V2))
    one = running(updated_max=2)
    done = plan(Seen(one, BASE, bigger, False, new), NOW, LIMITS)
    assert (done.after.status, done.actions) == (RolloutStatus.DONE, ())
    upkeep = steady_plan(done.after, new, bigger.replicas, NOW, LIMITS, surge=1)
    assert upkeep.actions == (StartReplica("d2"),) * 3


def test_with_downtime_allowed_a_single_replica_without_a_spare_slot_is_swapped() -> None:
    alone = running(replicas=1, max_unavailable=1, max_surge=0)
    assert decide(alone, serving("a")).actions == (DrainReplica("a"),)
    leaving = replica("a", state=S.DRAINING)
    assert decide(alone, leaving).actions == ()
    assert decide(alone).actions == (StartReplica("d2"),)


def test_with_surge_the_routable_replicas_never_fall_below_their_number() -> None:
    one = running()
    step = decide(one, serving("a"), serving("b"), replica("n", state=S.STARTING, **V2))
    assert step.actions == ()
    step = decide(one, serving("a"), serving("b"), serving("n", **V2))
    assert [type(a) for a in step.actions] == [DrainReplica]


@pytest.mark.parametrize(("surge", "starts"), [(0, 0), (2, 1)])
def test_a_long_drain_holds_the_next_step_only_while_no_slot_is_free(
    surge: int, starts: int
) -> None:
    one = running(max_unavailable=1, max_surge=surge, replicas=3, updated_max=1, failures=0)
    here = (serving("n", **V2), serving("a"), replica("b", state=S.DRAINING))
    late = after(LIMITS.progress_s - 1)
    step = decide(replace(one, progress_at=late), *here, at=after(LIMITS.progress_s + 60))
    assert step.after.status is RolloutStatus.IN_PROGRESS
    assert sum(isinstance(a, StartReplica) for a in step.actions) >= starts


def test_upkeep_leaves_no_half_started_replica_of_other_settings() -> None:
    stray = replica("n", state=S.STARTING, settings_digest="new")
    upkeep = steady_plan(BASE, (serving("a"), stray), 1, NOW, LIMITS, surge=1)
    assert upkeep.actions == (StopReplica("n"),)
