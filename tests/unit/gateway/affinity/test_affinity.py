"""Requests that are alike go to the same replica: what makes them alike, how stable that is, and how loaded it gets."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.gateway.affinity.keys import PREFIX_CHARS, affinity_key
from weighbridge.gateway.affinity.rendezvous import LOAD_BOUND, pick_by_key
from weighbridge.gateway.requests.shapes import ChatRequest, CompletionRequest
from weighbridge.routing.model import ReplicaRoute
from weighbridge.routing.options import Affinity

LONG = "You are a scale in a gravel pit. " * 64
replica_ids = st.lists(st.text("abcdef0123456789", min_size=1, max_size=6), min_size=1, max_size=9)
keys = st.text(max_size=40)


def replicas(ids: list[str]) -> list[ReplicaRoute]:
    return [
        ReplicaRoute(
            replica_id=name,
            slot=slot,
            url="http://x",
            incarnation="i",
            served_name=name,
            digest="d",
            version=1,
            fingerprint="f",
        )
        for slot, name in enumerate(dict.fromkeys(ids))
    ]


def idle(slot: int) -> int:
    return 0


def picked(found: list[ReplicaRoute], key: str, excluded: frozenset[str] = frozenset()) -> str:
    replica = pick_by_key(found, idle, key, excluded)
    assert replica is not None
    return replica.replica_id


@given(replica_ids, keys, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_the_table(ids, key, random) -> None:
    found = replicas(ids)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert picked(found, key) == picked(shuffled, key)


@given(replica_ids.filter(lambda ids: len(set(ids)) > 1), st.lists(keys, max_size=20), st.data())
def test_when_a_replica_leaves_only_its_own_keys_move(ids, asked, data) -> None:
    found = replicas(ids)
    leaving = data.draw(st.sampled_from([replica.replica_id for replica in found]))
    left = [replica for replica in found if replica.replica_id != leaving]
    for key in asked:
        before = picked(found, key)
        assert picked(left, key) == picked(found, key, frozenset({leaving}))
        if before != leaving:
            assert picked(left, key) == before


@given(replica_ids, st.text("0123456789", min_size=7, max_size=9), st.lists(keys, max_size=20))
def test_a_new_replica_takes_keys_and_moves_none_between_the_others(ids, new, asked) -> None:
    for key in asked:
        before, after = picked(replicas(ids), key), picked(replicas([*ids, new]), key)
        assert after in (before, new)


@given(replica_ids, st.lists(keys, max_size=60), st.floats(min_value=1.01, max_value=4))
def test_no_replica_gets_more_than_the_bound_times_the_mean(ids, asked, bound) -> None:
    found, loads = replicas(ids), Counter[int]()
    for number, key in enumerate(asked, start=1):
        replica = pick_by_key(found, loads.__getitem__, key, (), bound)
        assert replica is not None
        loads[replica.slot] += 1
        assert loads[replica.slot] < bound * number / len(found) + 1


@given(replica_ids, keys, st.lists(st.integers(min_value=0, max_value=50), min_size=9, max_size=9))
def test_whatever_the_loads_a_replica_is_found_and_it_is_within_the_bound(ids, key, loads) -> None:
    found = replicas(ids)
    replica = pick_by_key(found, loads.__getitem__, key, ())
    assert replica is not None
    if len(found) > 1:
        total = sum(loads[one.slot] for one in found)
        assert loads[replica.slot] < LOAD_BOUND * (total + 1) / len(found)


def test_nothing_is_left_to_choose_when_all_are_excluded() -> None:
    assert pick_by_key(replicas(["a", "b"]), idle, "k", {"a", "b"}) is None


def test_keys_spread_evenly() -> None:
    counts = Counter(picked(replicas(list("abcd")), f"session {number}") for number in range(4000))
    assert sorted(counts) == list("abcd")
    assert max(counts.values()) < 1.15 * 1000


def test_an_overloaded_replica_s_requests_all_go_to_the_same_second_one() -> None:
    found = replicas(list("abcd"))
    first = picked(found, "k")
    second = picked(found, "k", frozenset({first}))
    slot = next(replica.slot for replica in found if replica.replica_id == first)
    loads = {one.slot: 9 if one.slot == slot else 3 for one in found}
    for _ in range(3):
        replica = pick_by_key(found, loads.__getitem__, "k", ())
        assert replica is not None
        assert replica.replica_id == second


def chat(*messages: tuple[str, object], **members: object) -> ChatRequest:
    listed = [{"role": role, "content": content} for role, content in messages]
    return msgspec.convert({"model": "m", "messages": listed, **members}, ChatRequest)


@pytest.mark.parametrize(
    ("members", "mode", "key"),
    [
        ({"prompt_cache_key": "c", "user": "u"}, Affinity.OFF, None),
        ({"prompt_cache_key": "c", "user": "u"}, Affinity.SESSION, "s:c"),
        ({"user": "c"}, Affinity.SESSION, "u:c"),
        ({"user": "c"}, Affinity.PREFIX, "u:c"),
        ({"user": "", "prompt_cache_key": ""}, Affinity.SESSION, None),
        ({}, Affinity.PREFIX, "p:user:hi"),
    ],
)
def test_the_cache_key_comes_first_then_the_user_then_the_prompt(
    members: dict[str, object], mode: Affinity, key: str | None
) -> None:
    assert affinity_key(chat(("user", "hi"), **members), mode) == key


def test_a_chat_keeps_its_key_as_it_grows_and_shares_it_with_chats_of_the_same_long_opening() -> (
    None
):
    opening = (("system", LONG), ("user", "How heavy?"))
    grown = (*opening, ("assistant", "Two tons."), ("user", "And empty?"))
    other = (("system", LONG), ("user", "Who is next?"))
    seen = {affinity_key(chat(*one), Affinity.PREFIX) for one in (opening, grown, other)}
    assert len(seen) == 1
    (key,) = seen
    assert key is not None
    assert len(key) == PREFIX_CHARS + 2
    assert affinity_key(chat(("system", "x" + LONG), ("user", "?")), Affinity.PREFIX) != key


def test_parts_of_a_text_count_like_the_text() -> None:
    parts = [{"type": "text", "text": "hello "}, {"type": "text", "text": "scale"}]
    assert affinity_key(chat(("user", parts)), Affinity.PREFIX) == "p:user:hello scale"


@pytest.mark.parametrize(
    ("prompt", "key"),
    [
        ("weigh", "p:weigh"),
        ([5, 6], "p:5,6"),
        (["one", "two"], None),
        ([[1], [2]], None),
    ],
)
def test_text_and_token_prompts(prompt: object, key: str | None) -> None:
    request = msgspec.convert({"model": "m", "prompt": prompt}, CompletionRequest)
    assert affinity_key(request, Affinity.PREFIX) == key
