"""The fair queue: bounded, in order within a key, in turn among keys."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.gateway.limits.fair_queue import FairQueue

KEYS = st.sampled_from("abcde")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), KEYS, st.integers(1, 40)),
        st.tuples(st.just("pop"), KEYS, st.just(0)),
        st.tuples(st.just("remove"), KEYS, st.integers(0, 30)),
        st.tuples(st.just("again"), KEYS, st.just(0)),
    ),
    max_size=80,
)


@given(STEPS, st.integers(1, 8), st.integers(1, 150))
def test_nothing_is_lost_or_invented_and_the_bounds_hold(steps, items_max, bytes_max):
    queue: FairQueue[tuple[str, int, int]] = FairQueue(items_max, bytes_max)
    waiting: list[tuple[str, int, int]] = []
    for number, (what, key, size) in enumerate(steps):
        if what == "push":
            item = (key, number, size)
            waiting.append(item)
            dropped = queue.push(key, item, size)
            for gone in dropped:
                waiting.remove(gone)
            assert queue.count <= items_max
            assert queue.size_bytes <= bytes_max
        elif what in ("pop", "again"):
            item = queue.pop()
            assert (item is None) == (not waiting)
            if item is None:
                continue
            assert item == min(one for one in waiting if one[0] == item[0])
            if what == "again":
                queue.push_front(item[0], item, item[2])
                assert queue.pop() is item
            waiting.remove(item)
        elif waiting:
            item = waiting[size % len(waiting)]
            assert queue.remove(item[0], item)
            assert not queue.remove(item[0], item)
            waiting.remove(item)
        assert queue.count == len(waiting)
        assert queue.size_bytes == sum(size for _, _, size in waiting)


@given(
    st.lists(st.tuples(KEYS, st.integers(1, 6)), min_size=1, max_size=5, unique_by=lambda p: p[0])
)
def test_no_key_starves_each_is_served_once_in_as_many_turns_as_there_are_keys(flows):
    queue: FairQueue[tuple[str, int]] = FairQueue(1000, 1000)
    for key, count in flows:
        for number in range(count):
            queue.push(key, (key, number), 1)
    left = dict(flows)
    while left:
        keys = len(left)
        served = [queue.pop() for _ in range(keys)]
        assert Counter(item[0] for item in served) == Counter(left.keys())
        left = {key: count - 1 for key, count in left.items() if count > 1}
    assert queue.pop() is None


def test_who_asks_much_is_pushed_out_before_who_asks_little() -> None:
    queue: FairQueue[str] = FairQueue(4, 1000)
    for number in range(4):
        assert queue.push("greedy", f"g{number}", 1) == []
    assert queue.push("greedy", "g4", 1) == ["g4"]
    assert queue.push("modest", "m0", 1) == ["g3"]
    assert [queue.pop() for _ in range(4)] == ["g0", "m0", "g1", "g2"]


def test_by_bytes_the_heaviest_key_loses_its_newest() -> None:
    queue: FairQueue[str] = FairQueue(100, 100)
    assert queue.push("heavy", "h0", 60) == []
    assert queue.push("light", "l0", 30) == []
    assert queue.push("heavy", "h1", 30) == ["h1"]
    assert queue.push("huge", "x", 101) == ["x"]
    assert queue.push("light", "l1", 10) == []
