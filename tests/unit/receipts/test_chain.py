"""Whatever is done to a saved receipt is found, and the entry is named."""

import json
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from receipt_sample import EXTERNAL, ID, PAYLOADS, at, document
from weighbridge.receipts.service import ENTRIES_MAX
from weighbridge.sdk.receipts.chain import GENESIS, link
from weighbridge.sdk.receipts.summary import summarise
from weighbridge.sdk.receipts.verify import Receipt, ReceiptError, examine, read_receipt


def findings(changed, **options) -> list[str]:
    """What a check of the text says; a text that is refused as no receipt says so."""
    try:
        return [one.text for one in examine(read_receipt(json.dumps(changed)), **options).findings]
    except ReceiptError as error:
        return [error.message]


def test_an_untouched_receipt_is_intact_and_sealed():
    verdict = examine(read_receipt(json.dumps(document(), indent=2)))
    assert verdict.intact
    assert verdict.sealed


def test_the_seal_adds_up_what_the_entries_tell():
    summary = summarise(PAYLOADS, EXTERNAL)
    assert summary["phases"]["queued"] == {"count": 1, "min_ms": 1000, "median_ms": 1000, "max_ms": 1000}  # fmt: skip
    assert {name: spread["max_ms"] for name, spread in summary["phases"].items()} == {
        "queued": 1000, "start": 1000, "ready": 2000, "route": 500, "drain": 4000, "stop": 1000, "bake": 7000,
    }  # fmt: skip
    assert summary["routable_lowest"] == 1
    assert (summary["drained"], summary["cut"]) == (2, 1)
    assert summary["held"] is None
    assert [one["digest_loaded"] for one in summary["replicas"]] == ["d2", None]


def test_what_was_not_counted_is_not_zero():
    payloads = [one for one in PAYLOADS if one.get("state") != "unrouted"]
    blind = [{k: v for k, v in one.items() if k != "in_flight"} for one in payloads]
    summary = summarise(blind, EXTERNAL)
    assert (summary["drained"], summary["cut"]) == (None, None)


def test_the_largest_receipt_is_checked_in_seconds():
    payloads = [*PAYLOADS[:-1], *PAYLOADS[-2:-1] * ENTRIES_MAX, PAYLOADS[-1]]
    entries = link(ID, 0, GENESIS, payloads)
    receipt = Receipt(ID, entries[-1].hash, False, tuple(entries), None, {})
    began_s = time.process_time()
    assert examine(receipt).intact
    assert time.process_time() - began_s < 10


def places(value, path=()):
    """Every place in a JSON document."""
    yield path
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for name, member in members:
            yield from places(member, (*path, name))


PLACES = [path for path in places(document()) if path]
OTHER = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def put(root, path, value):
    for name in path[:-1]:
        root = root[name]
    root[path[-1]] = value


def get(root, path):
    for name in path:
        root = root[name]
    return root


@given(st.sampled_from(PLACES), OTHER)
def test_any_change_of_one_value_is_found(path, value):
    changed = json.loads(json.dumps(document()))
    assume(json.dumps(get(changed, path)) != json.dumps(value))
    put(changed, path, value)
    said = findings(changed)
    assert said
    if path[0] == "entries" and len(path) > 3 and path[2] == "payload":
        assert said[0].startswith(f"entry {path[1] + 1} was changed")


@given(st.sampled_from(PLACES))
def test_any_member_that_is_taken_out_is_found(path):
    changed = json.loads(json.dumps(document()))
    del get(changed, path[:-1])[path[-1]]
    assert findings(changed)


@given(st.sampled_from([p for p in PLACES if isinstance(get(document(), p), dict)]), st.text())
def test_any_member_that_is_put_in_is_found(path, name):
    changed = json.loads(json.dumps(document()))
    assume(name not in get(changed, path))
    get(changed, path)[name] = 1
    assert findings(changed)


@given(st.integers(0, len(PAYLOADS)))
def test_a_missing_entry_is_named(index):
    changed = document()
    del changed["entries"][index]
    last = index == len(PAYLOADS)
    assert (
        f"entries after {index} are missing" if last else f"entry {index + 1} is missing"
    ) in " ".join(findings(changed))


@given(st.permutations(range(len(PAYLOADS) + 1)))
def test_another_order_is_found(order):
    assume(order != sorted(order))
    changed = document()
    changed["entries"] = [changed["entries"][i] for i in order]
    assert any("out of order" in text for text in findings(changed))


@given(st.integers(0, len(PAYLOADS)))
def test_a_doubled_entry_is_named(index):
    changed = document()
    changed["entries"].insert(index, changed["entries"][index])
    assert f"entry {index + 1} occurs 2 times" in findings(changed)


@given(st.integers(1, len(PAYLOADS)))
def test_a_receipt_cut_short_is_found_even_with_a_fitting_head(count):
    changed = document()
    changed["entries"] = changed["entries"][:count]
    assert f"entries after {count} are missing" in " ".join(findings(changed))
    changed["head"] = changed["entries"][-1]["hash"]
    assert "its last entry is no seal" in " ".join(findings(changed))
    changed["sealed"] = False
    assert not examine(read_receipt(json.dumps(changed))).sealed


@given(st.integers(0, len(json.dumps(document())) - 1))
def test_a_file_cut_off_is_no_receipt(length):
    with pytest.raises(ReceiptError):
        read_receipt(json.dumps(document())[:length])


@given(st.integers(0, len(PAYLOADS) - 1))
def test_an_entry_replaced_with_its_hash_made_anew_breaks_the_next_link(index):
    changed = document()
    entry = changed["entries"][index]
    forged = link(ID, index, entry["previous"], [{**entry["payload"], "note": "forged"}])[0]
    changed["entries"][index] |= {"payload": forged.payload, "hash": forged.hash}
    assert any(f"entry {index + 1} was replaced" in text for text in findings(changed))


def test_a_chain_made_anew_is_found_by_the_published_head_alone():
    honest = document()
    forged = document([*PAYLOADS[:3], *PAYLOADS[4:]])
    assert findings(forged) == []
    assert findings(forged, head=honest["head"])


def test_a_seal_that_does_not_add_up_is_found():
    seal = summarise(PAYLOADS, EXTERNAL) | {"cut": 0}
    forged = document([*PAYLOADS, {"event": "sealed", "at": at(20), "summary": seal}], sealed=False)
    forged["sealed"] = True
    assert findings(forged) == ["the seal's cut is not what the entries add up to"]


def test_a_member_said_twice_is_refused():
    text = json.dumps(document()).replace('"sealed": true', '"sealed": true, "sealed": true')
    with pytest.raises(ReceiptError, match="twice"):
        read_receipt(text)
