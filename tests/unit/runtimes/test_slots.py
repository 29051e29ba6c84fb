"""Which waiting replicas may start: examples, and what holds in every world."""

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.runtimes.slots import Room, Waiting, admit


def test_the_first_that_came_start_first():
    answer = admit(Room(3), [()], [Waiting("a"), Waiting("b"), Waiting("c")])
    assert list(answer.devices_by_name) == ["a", "b"]
    assert answer.reason_by_name == {"c": "waits for one of 3 slots"}


def test_a_wish_for_many_gpus_is_not_overtaken_by_smaller_ones():
    room = Room(8, ("0", "1"))
    answer = admit(room, [("0",)], [Waiting("big", 2), Waiting("small", 1)])
    assert answer.devices_by_name == {}
    assert answer.reason_by_name == {
        "big": "waits for 2 GPUs; 1 are free",
        "small": "waits for its turn",
    }


def test_a_wish_that_can_never_be_granted_holds_up_nobody():
    answer = admit(Room(1, ("0",)), [], [Waiting("huge", 2), Waiting("a", 0.5)])
    assert answer.devices_by_name == {"a": ("0",)}
    assert answer.reason_by_name == {"huge": "needs 2 GPUs; this node offers 1"}


@st.composite
def worlds(draw):
    devices = tuple(str(i) for i in range(draw(st.integers(0, 4))))
    free = list(devices)
    held = []
    for count in draw(st.lists(st.integers(0, 2), max_size=4)):
        held.append(tuple(free[:count]))
        del free[:count]
    counts = draw(st.lists(st.integers(0, 5), max_size=8))
    waiting = [Waiting(f"r{i}", count) for i, count in enumerate(counts)]
    return Room(draw(st.integers(0, 6)), devices), held, waiting


@given(worlds())
def test_no_slot_and_no_device_is_ever_given_twice(world):
    room, held, waiting = world
    answer = admit(room, held, waiting)
    given_out = [d for devices in [*held, *answer.devices_by_name.values()] for d in devices]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) <= set(room.devices)
    assert len(answer.devices_by_name) <= max(0, room.slots - len(held))


@given(worlds())
def test_every_wish_starts_with_what_it_needs_or_hears_why_not(world):
    room, held, waiting = world
    answer = admit(room, held, waiting)
    for wish in waiting:
        starts = wish.name in answer.devices_by_name
        assert starts != (wish.name in answer.reason_by_name)
        if starts:
            assert len(answer.devices_by_name[wish.name]) == wish.gpus


@given(worlds())
def test_an_empty_node_always_starts_the_first_that_fits(world):
    room, _, waiting = world
    fitting = [w.name for w in waiting if w.gpus <= len(room.devices)]
    answer = admit(room, [], waiting)
    assert list(answer.devices_by_name)[:1] == fitting[:1] or room.slots == 0
