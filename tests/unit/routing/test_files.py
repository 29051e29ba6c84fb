"""Snapshots survive a writer that dies half-way, and tokens are stable secrets."""

import stat

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.errors import StaleError
from weighbridge.routing.files import publish_snapshot, read_snapshot, write_snapshot
from weighbridge.routing.model import EndpointRoute, ReplicaRoute, RouteTable
from weighbridge.routing.tokens import key_digest, load_pepper, replica_token

REPLICA = ReplicaRoute("r1", 4, "http://127.0.0.1:1", "i", "r1.d", "d", 2, "fp_d")
ENDPOINT = EndpointRoute("e", "o", "org", "arch", 1, True, False, (REPLICA,), tools=True)


def test_what_is_written_is_read_and_is_the_owner_s_alone(tmp_path):
    path = tmp_path / "routes.json"
    assert read_snapshot(path, RouteTable) is None
    table = RouteTable(3, (ENDPOINT,))
    write_snapshot(path, table)
    assert read_snapshot(path, RouteTable) == table
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_was_overtaken_replaces_nothing(tmp_path):
    path = tmp_path / "routes.json"
    publish_snapshot(path, RouteTable(3, (ENDPOINT,)), 3)
    publish_snapshot(path, RouteTable(3, ()), 3)
    publish_snapshot(path, RouteTable(5, ()), 5)
    with pytest.raises(StaleError, match=r"published routes.json meanwhile"):
        publish_snapshot(path, RouteTable(4, (ENDPOINT,)), 4)
    assert read_snapshot(path, RouteTable) == RouteTable(5, ())
    path.write_bytes(b"nonsense")
    publish_snapshot(path, RouteTable(1, ()), 1)


def test_a_table_of_an_older_writer_gets_the_defaults():
    text = msgspec.json.encode(ENDPOINT)
    old = msgspec.json.decode(text)
    del old["min_tokens"], old["in_flight_max"]
    assert msgspec.convert(old, EndpointRoute) == ENDPOINT


@pytest.mark.parametrize("text", [b"", b"{}", b'{"generation":1,"endpoints":1}', b"nonsense"])
def test_what_is_no_snapshot_raises(tmp_path, text):
    path = tmp_path / "routes.json"
    path.write_bytes(text)
    with pytest.raises(msgspec.MsgspecError):
        read_snapshot(path, RouteTable)


def test_the_pepper_is_made_once_and_private(tmp_path):
    directory = tmp_path / "secrets"
    pepper = load_pepper(directory)
    assert load_pepper(directory) == pepper
    assert len(pepper) == 32
    assert stat.S_IMODE((directory / "pepper").stat().st_mode) == 0o600


@given(st.binary(min_size=32, max_size=32), st.text(), st.text())
def test_tokens_differ_by_replica_and_are_no_key_digest(pepper, one, other):
    first, second = replica_token(pepper, one), replica_token(pepper, other)
    assert (first == second) == (one == other)
    assert first.isascii()
    assert key_digest(pepper, one).hex() not in first
