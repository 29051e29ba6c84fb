"""One step of a rollout or of upkeep from any state, also such as no play comes to: what it must never do."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from toys.rules import check_plan, check_upkeep
from toys.world import LIMITS, START, deployment, endpoint, replica
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.rollouts.plan import Seen, plan
from weighbridge.rollouts.steady import steady_plan

NOW = START + timedelta(minutes=20)
LONG_AGO = NOW - timedelta(seconds=LIMITS.total_s)
AGES_S = (0, 0.5, 1, 2, 4, 5, 24, 25, 90, 600)
"""Around the limits' own times."""
ages = st.sampled_from(AGES_S + (600,) * 3).map(lambda age_s: NOW - timedelta(seconds=age_s))
COMING = (ReplicaState.PENDING, ReplicaState.STARTING, ReplicaState.WARMING)
STATES = (*ReplicaState, *COMING, ReplicaState.FAILED, *[ReplicaState.READY] * 6)


@st.composite
def replicas(draw: st.DrawFn, number: int) -> Replica:
    version = draw(st.sampled_from((1, 1, 2, 2, 3)))
    state = draw(st.sampled_from(STATES))
    steady = draw(st.booleans())  # for long, and known to every gateway
    been_ready = state not in COMING and (
        steady or state is ReplicaState.READY or draw(st.booleans())
    )
    since = NOW - timedelta(seconds=AGES_S[-1]) if steady else draw(ages)
    return replica(
        f"r{number}",
        deployment_id=f"d{version}",
        version_id=f"v{version}",
        version_number=version,
        state=state,
        slot=number,
        created_at=START,
        state_since=since,
        ready_at=since if been_ready else None,
        routed_at=since if been_ready and (steady or draw(st.integers(0, 3))) else None,
        probe_failures=0 if steady else draw(st.sampled_from((0, 0, 0, 1, 2))),
        failure_counted=draw(st.booleans()),
    )


@st.composite
def deployments(draw: st.DrawFn, shape: tuple[int, int, int]) -> Deployment:
    status = draw(st.sampled_from((RolloutStatus.IN_PROGRESS, RolloutStatus.ROLLING_BACK)))
    updated = draw(st.sampled_from((0, 0, 1, shape[0])))
    return deployment(
        2,
        status=status,
        base_deployment_id="d1",
        replicas=shape[0],
        max_unavailable=shape[1],
        max_surge=shape[2],
        updated_replicas=updated,
        updated_max=draw(st.sampled_from((updated, shape[0]))),
        failures=draw(st.integers(0, 3)),
        cancel_requested=draw(st.sampled_from((False, False, True))),
        started_at=draw(st.sampled_from((START, START, LONG_AGO))),
        progress_at=draw(ages),
    )


@st.composite
def worlds(draw: st.DrawFn) -> Seen:
    size = draw(st.integers(1, 4))
    unavailable = draw(st.integers(0, size))
    shape = (size, unavailable, draw(st.integers(0 if unavailable else 1, 2)))
    count = draw(st.integers(0, 7))
    base = deployment(1, status=RolloutStatus.DONE) if draw(st.integers(0, 3)) else None
    return Seen(
        draw(deployments(shape)),
        base,
        endpoint(*shape),
        endpoint_deleted=draw(st.sampled_from((False, False, False, True))),
        replicas=tuple(draw(replicas(number)) for number in range(count)),
        fetching=draw(st.sampled_from(("", "", "weights on their way"))),
    )


@settings(max_examples=3_000, deadline=None)
@given(worlds())
def test_any_step_of_a_rollout_is_safe_in_any_world(seen: Seen) -> None:
    check_plan(seen, plan(seen, NOW, LIMITS), NOW, LIMITS)


@settings(max_examples=1_500, deadline=None)
@given(st.data())
def test_any_step_of_upkeep_is_safe_in_any_world(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from((None, *[deployment(1, status=RolloutStatus.DONE)] * 3)))
    size, surge = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 2))
    found = [data.draw(replicas(number)) for number in range(data.draw(st.integers(0, 7)))]
    upkeep = steady_plan(base, found, size, NOW, LIMITS, surge=surge)
    check_upkeep(base, found, upkeep, NOW, LIMITS, size=size, surge=surge)
