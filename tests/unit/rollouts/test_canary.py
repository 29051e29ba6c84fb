"""A canary: a share of the replicas beside the base, until somebody promotes or cancels it."""

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toys.world import LIMITS, START, Luck, World, deployment, endpoint, replica, serving
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.rollouts.moves import DrainReplica, StartReplica
from weighbridge.rollouts.plan import Plan, Seen, plan
from weighbridge.usage.model import VersionFigures

NOW = START + timedelta(hours=1)
BASE = deployment(1, status=RolloutStatus.DONE)
V2 = {"deployment_id": "d2", "version_id": "v2", "version_number": 2}
S = ReplicaState


def canary(replicas: int = 4, percent: int = 25, **changes: object) -> Deployment:
    values: dict[str, object] = {
        "status": RolloutStatus.IN_PROGRESS,
        "base_deployment_id": "d1",
        "replicas": replicas,
        "max_surge": 1,
        "started_at": NOW,
        "progress_at": NOW,
        "traffic_percent": percent,
    }
    return deployment(2, **(values | changes))


def decide(one: Deployment, *here: Replica, at: datetime = NOW, **seen: object) -> Plan:
    base = seen.pop("base", BASE)
    return plan(Seen(one, base, endpoint(4, 0, 1), False, here, **seen), at, LIMITS)


def old(count: int) -> tuple[Replica, ...]:
    return tuple(serving(f"old{n}") for n in range(count))


@pytest.mark.parametrize(
    ("replicas", "surge", "percent", "count"),
    [(10, 1, 25, 3), (10, 1, 1, 1), (10, 1, 99, 10), (1, 1, 50, 1), (2, 0, 99, 1), (4, 1, 50, 2)],
)
def test_a_share_asks_for_its_part_of_the_replicas_and_leaves_room_for_the_base(
    replicas: int, surge: int, percent: int, count: int
) -> None:
    assert canary(replicas, percent, max_surge=surge).canary_replicas == count


def test_it_brings_up_its_replicas_and_drains_only_what_they_replace() -> None:
    assert decide(canary(), *old(4)).actions == (StartReplica("d2"),)
    step = decide(canary(), *old(4), serving("n", **V2))
    assert [type(a) for a in step.actions] == [DrainReplica]
    stands = decide(canary(updated_max=1), *old(3), serving("n", **V2))
    assert stands.actions == ()
    assert stands.after.status is RolloutStatus.IN_PROGRESS
    assert stands.after.reason == (
        "1 replica ready on version 2; 25 % of requests go to it until it is promoted"
    )


def test_it_stands_for_days_without_a_deadline() -> None:
    here = (*old(3), serving("n", **V2))
    one, at = canary(updated_max=1), NOW
    for _ in range(20_000):
        at += timedelta(seconds=LIMITS.drain_credit_s)
        step = decide(one, *here, at=at)
        assert (step.after.status, step.actions) == (RolloutStatus.IN_PROGRESS, ())
        one = step.after


def test_a_lost_base_replica_is_replaced_by_the_base_and_a_lost_canary_by_the_target() -> None:
    lost = replica("x", state=S.LOST, state_since=NOW - timedelta(minutes=5))
    one = canary(updated_max=1)
    assert decide(one, *old(2), serving("n", **V2), lost).actions == (StartReplica("d1"),)
    gone = replace(lost, **V2)
    assert decide(one, *old(3), gone).actions == (StartReplica("d2"),)


def test_a_lost_base_replica_that_finds_no_place_holds_it_however_long() -> None:
    waits = replica("w", state=S.PENDING, reason="every place is taken", created_at=NOW)
    one, at = canary(updated_max=1), NOW
    for _ in range(2_000):
        at += timedelta(seconds=LIMITS.drain_credit_s)
        step = decide(one, *old(2), serving("n", **V2), waits, at=at)
        assert (step.after.status, step.actions) == (RolloutStatus.IN_PROGRESS, ())
        one = step.after
    assert at > NOW + timedelta(seconds=LIMITS.total_s + LIMITS.capacity_s)
    assert one.reason == (
        "1/1 replica ready on version 2; held until version 1 has its replicas again: every place is taken"
    )
    assert one.error_message == "waiting for capacity: every place is taken"
    back = decide(one, *old(2), serving("n", **V2), serving("w"), at=at).after
    assert back.error_message is None
    assert "until it is promoted" in back.reason


def test_held_for_its_base_it_is_still_turned_back_by_its_own_answers() -> None:
    bad = {2: VersionFigures(100, 90, 10, 0, 90, 0.1), 1: VersionFigures(300, 300, 0, 0, 300, 0.1)}
    waits = replica("w", state=S.PENDING, reason="every place is taken", created_at=NOW)
    step = decide(canary(updated_max=1), *old(2), serving("n", **V2), waits, figures=bad)
    assert step.after.status is RolloutStatus.ROLLING_BACK


def test_a_promoted_one_goes_on_to_all_replicas_and_is_done() -> None:
    late = NOW + timedelta(days=9)
    one = canary(updated_max=1, promoted_at=late, progress_at=late)
    step = decide(one, *old(3), serving("n", **V2), at=late)
    assert step.actions == (StartReplica("d2"),)
    whole = tuple(serving(f"n{n}", **V2) for n in range(4))
    assert decide(replace(one, updated_max=4), *whole, at=late).after.status is RolloutStatus.DONE


def test_worse_answers_or_a_crash_turn_it_back() -> None:
    bad = {2: VersionFigures(100, 90, 10, 0, 90, 0.1), 1: VersionFigures(300, 300, 0, 0, 300, 0.1)}
    one = canary(updated_max=1)
    step = decide(one, *old(3), serving("n", **V2), figures=bad)
    assert step.after.status is RolloutStatus.ROLLING_BACK
    assert (step.after.error_message or "").startswith("5xx 10.0 %")
    dead = replica("n", state=S.FAILED, reason="exited with code 9", **V2)
    assert decide(one, *old(3), dead).after.status is RolloutStatus.ROLLING_BACK


def test_a_cancelled_one_goes_back_to_the_base() -> None:
    step = decide(canary(updated_max=1, cancel_requested=True), *old(3), serving("n", **V2))
    assert step.after.status is RolloutStatus.ROLLING_BACK
    step = decide(step.after, *old(3), serving("n", **V2))
    assert step.actions == (StartReplica("d1"),)


def test_without_anybody_to_share_with_it_is_an_ordinary_rollout() -> None:
    waits = canary(status=RolloutStatus.NOT_STARTED)
    assert decide(waits, *old(4)).after.canary
    assert not decide(waits, base=None).after.canary
    same = replace(waits, version_id="v1")
    assert not decide(same, *old(4)).after.canary


def test_of_the_version_that_serves_with_other_engine_settings_no_share_can_be_had() -> None:
    waiting = deployment(1, id="d2", traffic_percent=25, settings_digest="other")
    ended = decide(waiting, *old(4))
    assert (ended.after.status, ended.actions) == (RolloutStatus.ERROR, ())
    assert "without traffic_percent" in ended.after.reason


def test_without_room_for_two_versions_it_ends_before_anything_is_touched() -> None:
    alone = replace(endpoint(1, 1, 0), allow_downtime=True)
    waits = canary(status=RolloutStatus.NOT_STARTED)
    step = plan(Seen(waits, BASE, alone, False, old(1)), NOW, LIMITS)
    assert (step.after.status, step.actions) == (RolloutStatus.ERROR, ())


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    replicas = draw(st.integers(1, 6))
    surge = draw(st.integers(1 if replicas == 1 else 0, 3))
    return replicas, draw(st.integers(0 if surge else 1, max(0, replicas - 1) or 0)), surge


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32), shapes().filter(lambda s: s[1] + s[2]), st.integers(1, 99), st.booleans()
)
def test_whatever_its_shape_it_stands_with_both_versions_and_ends_as_asked(
    seed: int, shape: tuple[int, int, int], percent: int, promote: bool
) -> None:
    played = World(Random(seed), endpoint(*shape), {"v1": Luck(), "v2": Luck()})
    played.serve(deployment(1), shape[0])
    played.submit(deployment(2, traffic_percent=percent))
    played.play(300)
    standing = played.deployments["d2"]
    assert standing.status is RolloutStatus.IN_PROGRESS
    assert "until it is promoted" in standing.reason
    assert played.on("v2") == standing.canary_replicas
    assert played.on("v1") == max(1, shape[0] - standing.canary_replicas)
    change = {"promoted_at": played.now} if promote else {"cancel_requested": True}
    played.deployments["d2"] = replace(standing, progress_at=played.now, **change)
    played.play(1_000)
    ended = played.deployments["d2"].status
    assert ended is (RolloutStatus.DONE if promote else RolloutStatus.CANCELLED)
    assert played.on("v2" if promote else "v1") == shape[0]
    assert played.on("v1" if promote else "v2") == 0
    assert played.ready_min >= shape[0] - shape[1]
