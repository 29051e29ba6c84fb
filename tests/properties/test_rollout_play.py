"""Whole rollouts played on a toy world: safety at every step, and the promised end in a fair one."""

from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from toys.world import Luck, World, deployment, endpoint
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts.model import RolloutStatus

# A play is long, so a failing one is shown as it was found: its seed replays it.
PLAYS = settings(
    max_examples=300,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)

GOOD = Luck()
BAD = [Luck(start_crash=1.0), Luck(never_ready=True), Luck(dies_after_s=1)]
"""Crashes at the start, never answers, crashes after its first seconds ready."""


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    replicas = draw(st.integers(1, 6))
    unavailable = draw(st.integers(0, replicas))
    surge = draw(st.integers(0 if unavailable else 1, 3))
    return replicas, unavailable, surge


def world(seed: int, shape: tuple[int, int, int], luck: dict[str, Luck], **more: float) -> World:
    made = World(Random(seed), endpoint(*shape), luck, **more)
    made.serve(deployment(1), shape[0])
    return made


seeds = st.integers(0, 2**32)


@PLAYS
@given(seeds, shapes(), st.floats(0, 0.9))
def test_a_good_version_ends_done_on_every_replica_and_never_below_the_floor(
    seed: int, shape: tuple[int, int, int], absent: float
) -> None:
    played = world(seed, shape, {"v1": GOOD, "v2": GOOD}, controller_absent=absent)
    played.submit(deployment(2))
    played.play(1_000)
    assert played.deployments["d2"].status is RolloutStatus.DONE
    assert played.on("v2") == shape[0]
    assert played.on("v1") == 0
    assert played.ready_min >= shape[0] - shape[1]
    assert played.base_id == "d2"


@PLAYS
@given(seeds, shapes(), st.sampled_from(BAD))
def test_a_version_that_crashes_or_never_answers_ends_rolled_back_with_the_floor_kept(
    seed: int, shape: tuple[int, int, int], bad: Luck
) -> None:
    played = world(seed, shape, {"v1": GOOD, "v2": bad})
    played.submit(deployment(2))
    played.play(3_000)
    ended = played.deployments["d2"]
    assert ended.status is RolloutStatus.ROLLED_BACK
    assert ended.error_message
    assert played.on("v1") == shape[0]
    assert played.on("v2") == 0
    assert played.ready_min >= shape[0] - shape[1]
    assert played.base_id == "d1"


@PLAYS
@given(seeds, shapes(), st.integers(0, 60))
def test_a_cancelled_rollout_ends_cancelled_with_the_version_before_it(
    seed: int, shape: tuple[int, int, int], after_s: int
) -> None:
    played = world(seed, shape, {"v1": GOOD, "v2": GOOD})
    played.submit(deployment(2))
    played.play(after_s)
    if played.active() is None:
        assert played.deployments["d2"].status is RolloutStatus.DONE
        return
    asked = played.deployments["d2"]
    played.deployments["d2"] = type(asked)(
        **{name: getattr(asked, name) for name in asked.__slots__} | {"cancel_requested": True}
    )
    played.play(2_000)
    assert played.deployments["d2"].status is RolloutStatus.CANCELLED
    assert played.on("v1") == shape[0]
    assert played.ready_min >= shape[0] - shape[1]


@PLAYS
@given(
    seeds,
    shapes(),
    st.lists(
        st.builds(
            Luck,
            start_crash=st.floats(0, 0.5),
            never_ready=st.booleans(),
            crash=st.floats(0, 0.1),
            lose=st.floats(0, 0.1),
        ),
        min_size=3,
        max_size=3,
    ),
    st.integers(1, 8),
)
def test_in_an_unfair_world_every_rollout_still_ends_and_every_step_is_safe(
    seed: int, shape: tuple[int, int, int], lucks: list[Luck], places: int
) -> None:
    luck = {f"v{n}": one for n, one in enumerate(lucks, 1)}
    played = world(seed, shape, luck, places=places)
    for number in (2, 3, 4):
        played.submit(deployment(number, version=1 + (number + seed) % 3))
    played.play(20_000)
    assert all(d.status.final for d in played.deployments.values())
    finished = [d for d in played.deployments.values() if d.status is RolloutStatus.DONE]
    assert played.base_id == finished[-1].id


@PLAYS
@given(seeds, shapes())
def test_a_first_deployment_starts_everything_at_once_and_ends_done(
    seed: int, shape: tuple[int, int, int]
) -> None:
    played = World(Random(seed), endpoint(*shape), {"v1": GOOD})
    played.submit(deployment(1))
    played.control()
    played.control()
    assert played.on("v1", ReplicaState.PENDING) == shape[0]
    played.play(500)
    assert played.deployments["d1"].status is RolloutStatus.DONE


@PLAYS
@given(seeds, shapes())
def test_a_first_deployment_that_fails_ends_in_error_and_leaves_ready_replicas_alone(
    seed: int, shape: tuple[int, int, int]
) -> None:
    played = World(Random(seed), endpoint(*shape), {"v1": Luck(start_crash=0.5)})
    played.submit(deployment(1))
    played.play(3_000)
    status = played.deployments["d1"].status
    assert status in (RolloutStatus.ERROR, RolloutStatus.DONE)
    played.luck["v1"] = GOOD
    ready = played.on("v1")
    for _ in range(50):
        played.tick()
    if status is RolloutStatus.ERROR:
        assert ready <= played.on("v1") <= shape[0]
        not_ready = (ReplicaState.PENDING, ReplicaState.STARTING, ReplicaState.WARMING)
        assert played.on("v1", *not_ready) == 0


@PLAYS
@given(seeds, shapes())
def test_the_same_version_again_adopts_what_runs_and_starts_nothing(
    seed: int, shape: tuple[int, int, int]
) -> None:
    played = world(seed, shape, {"v1": GOOD})
    ids = set(played.replicas)
    played.submit(deployment(2, version=1))
    played.control()
    played.control()
    assert played.deployments["d2"].status is RolloutStatus.DONE
    assert set(played.replicas) == ids
    assert {r.deployment_id for r in played.replicas.values()} == {"d2"}


@PLAYS
@given(seeds, shapes(), st.integers(1, 6), st.integers(1, 20))
def test_upkeep_brings_an_endpoint_back_to_its_size_after_losses(
    seed: int, shape: tuple[int, int, int], size: int, losses: int
) -> None:
    bad_days = Luck(crash=0.05, lose=0.05)
    played = world(seed, shape, {"v1": bad_days})
    played.endpoint = endpoint(size, shape[1], shape[2] + 1)
    for _ in range(losses):
        played.tick()
    played.luck["v1"] = GOOD
    for _ in range(200):
        played.tick()
    assert played.on("v1") == size
