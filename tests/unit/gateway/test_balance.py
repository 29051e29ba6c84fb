"""The least loaded replica is picked, and ties are fair."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.gateway.balance import groups, pick
from weighbridge.routing.model import ReplicaRoute, TrafficShare

SHARES = st.floats(0, 1, exclude_max=True)


def replicas(count: int) -> list[ReplicaRoute]:
    return [
        ReplicaRoute(f"r{slot}", slot, "http://x", "i", "n", "d", 1, "fp_1")
        for slot in range(count)
    ]


@given(
    loads=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    value=SHARES,
    excluded=st.sets(st.integers(0, 7)),
)
def test_no_replica_that_may_be_picked_has_less_to_do(loads, value, excluded):
    names = {f"r{slot}" for slot in excluded}
    picked = pick(replicas(len(loads)), loads.__getitem__, value, names)
    allowed = [load for slot, load in enumerate(loads) if slot not in excluded]
    if picked is None:
        assert not allowed
    else:
        assert picked.replica_id not in names
        assert loads[picked.slot] == min(allowed)


def test_a_tie_is_shared_evenly():
    values = [step / 1000 for step in range(1000)]
    picked = Counter(pick(replicas(4), lambda _: 2, value, ()).replica_id for value in values)
    assert set(picked.values()) == {250}


@given(percent=st.integers(0, 100), versions=st.lists(st.integers(7, 9), max_size=6))
def test_a_share_names_everybody_once_and_its_version_first_as_often_as_it_says(percent, versions):
    here = [
        ReplicaRoute(f"r{slot}", slot, "http://x", "i", "n", "d", version, "fp_1")
        for slot, version in enumerate(versions)
    ]
    first = 0
    for step in range(100):
        mine, rest = groups(here, TrafficShare(version=8, percent=percent), (step + 0.5) / 100)
        assert sorted(r.slot for r in (*mine, *rest)) == list(range(len(here)))
        assert len({r.version == 8 for r in mine}) <= 1
        first += all(r.version == 8 for r in mine) and all(r.version != 8 for r in rest)
    if {8} < set(versions):
        assert first == percent


@settings(deadline=None)
@given(rounds=st.integers(1, 200), seed=st.randoms())
def test_counts_of_steady_requests_stay_within_one(rounds, seed):
    counts = [0] * 5
    for _ in range(rounds):
        counts[pick(replicas(5), counts.__getitem__, seed.random(), ()).slot] += 1
    assert max(counts) - min(counts) <= 1
