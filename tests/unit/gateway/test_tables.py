"""Snapshots become tables in one step, and the acknowledgement comes after it; keys open only what is theirs."""

import asyncio
import os
from pathlib import Path

import pytest

from weighbridge.errors import ForbiddenError, UnauthenticatedError
from weighbridge.gateway.auth import authenticate
from weighbridge.gateway.metrics.figures import (
    Figures,
    WorkerFigures,
    prometheus_text,
    read_figures,
    write_figures,
)
from weighbridge.gateway.snapshots import Snapshots
from weighbridge.gateway.table import EMPTY_TABLES, CurrentTables
from weighbridge.routing import notices
from weighbridge.routing.acks import GatewayView, WorkerColumn, open_acks
from weighbridge.routing.files import write_snapshot
from weighbridge.routing.model import EndpointRoute, KeyEntry, KeyTable, RouteTable
from weighbridge.routing.tokens import key_digest

PEPPER = b"p" * 32
LIMIT_S = 10.0


def endpoint(endpoint_id: str, org_id: str = "org1", *, deployed: bool = True) -> EndpointRoute:
    return EndpointRoute(endpoint_id, org_id, "one", "tiny", 0, deployed, False, ())


def key(text: str, expires: float | None = None) -> KeyEntry:
    return KeyEntry(key_digest(PEPPER, text).hex(), f"id-{text}", "org1", expires)


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    column = WorkerColumn(open_acks(tmp_path / "acks"), 3, os.getpid())
    return Snapshots(tmp_path / "routes.json", tmp_path / "keys.json", CurrentTables(), column)


def acked(snapshots: Snapshots) -> tuple[int | None, int | None]:
    view = GatewayView(open_acks(snapshots.routes_file.with_name("acks")))
    return view.routes_acked(), view.keys_acked()


def test_a_new_snapshot_is_applied_and_acknowledged(snapshots):
    snapshots.refresh()
    assert not snapshots.loaded
    assert acked(snapshots) == (0, 0)
    write_snapshot(snapshots.routes_file, RouteTable(5, (endpoint("a"),)))
    write_snapshot(snapshots.keys_file, KeyTable(2, (key("k"),)))
    snapshots.refresh()
    assert snapshots.loaded
    assert set(snapshots.current.tables.endpoints) == {"a"}
    assert acked(snapshots) == (5, 2)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"generation":9}', b'{"generation":9,"endpoints":[{}]}', b"\xff" * 9],
)
def test_a_bad_snapshot_leaves_the_old_one(snapshots, text):
    write_snapshot(snapshots.routes_file, RouteTable(5, (endpoint("a"),)))
    snapshots.refresh()
    snapshots.routes_file.write_bytes(text)
    snapshots.refresh()
    assert set(snapshots.current.tables.endpoints) == {"a"}
    assert acked(snapshots)[0] == 5


@pytest.mark.parametrize("told", [True, False])
async def test_a_watched_snapshot_is_applied_soon_by_the_kernels_word_or_by_looking(
    snapshots, monkeypatch, told
):
    if told:
        monkeypatch.setattr("weighbridge.gateway.snapshots.LOOK_S", 3600.0)
    else:
        monkeypatch.setattr(notices, "IN_MOVED_TO", 0)  # the kernel refuses to watch for nothing
    watching = asyncio.create_task(snapshots.watch())
    await asyncio.sleep(0)
    for generation in (5, 6):
        write_snapshot(snapshots.routes_file, RouteTable(generation, (endpoint("a"),)))
        async with asyncio.timeout(LIMIT_S):
            while acked(snapshots)[0] != generation:  # noqa: ASYNC110 - shared memory has no event
                await asyncio.sleep(0.005)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


def test_a_bad_digest_leaves_the_old_keys(snapshots):
    write_snapshot(snapshots.keys_file, KeyTable(1, (key("k"),)))
    snapshots.refresh()
    write_snapshot(snapshots.keys_file, KeyTable(2, (KeyEntry("zz", "id", "org1"),)))
    snapshots.refresh()
    assert acked(snapshots)[1] == 1
    assert len(snapshots.current.tables.keys) == 1


def test_a_missing_or_older_snapshot_changes_nothing(snapshots):
    write_snapshot(snapshots.routes_file, RouteTable(5, (endpoint("a"),)))
    snapshots.refresh()
    write_snapshot(snapshots.routes_file, RouteTable(4, ()))
    snapshots.refresh()
    snapshots.routes_file.unlink()
    snapshots.refresh()
    assert set(snapshots.current.tables.endpoints) == {"a"}
    assert acked(snapshots)[0] == 5


def test_an_org_sees_its_deployed_endpoints_only():
    every = (endpoint("b"), endpoint("a"), endpoint("c", "org2"), endpoint("d", deployed=False))
    tables = EMPTY_TABLES.with_routes(RouteTable(1, every))
    assert [found.endpoint_id for found in tables.endpoints_of("org1")] == ["a", "b"]
    assert tables.endpoint("a", "org1") is not None
    assert [tables.endpoint(name, "org1") for name in ("c", "d", "e")] == [None] * 3


TABLES = EMPTY_TABLES.with_keys(KeyTable(1, (key("good"), key("old", expires=100.0))))


@pytest.mark.parametrize("header", ["Bearer good", "bearer good", "BEARER  good "])
def test_a_known_key_is_found(header):
    assert authenticate([header], TABLES, PEPPER, 50.0).key_id == "id-good"


def test_a_key_works_until_it_expires():
    assert authenticate(["Bearer old"], TABLES, PEPPER, 99.9).key_id == "id-old"
    with pytest.raises(UnauthenticatedError):
        authenticate(["Bearer old"], TABLES, PEPPER, 100.0)


@pytest.mark.parametrize(
    "headers",
    [
        [""],
        ["good"],
        ["Basic good"],
        ["Bearer"],
        ["Bearer "],
        ["Bearer bad"],
        ["Bearer good\x00"],
        ["Bearer g\u00f6od"],
        ["Bearer \udcff"],
        ["Bearer ' OR 1=1 --"],
        ["Bearer " + "good" * 1000],
        ["Bearer good", "Bearer good"],
    ],
)
def test_every_other_header_is_a_wrong_key(headers):
    with pytest.raises(UnauthenticatedError) as raised:
        authenticate(headers, TABLES, PEPPER, 50.0)
    assert raised.value.message == "Wrong API Key"


def test_a_caller_is_remembered_until_the_next_keys_unless_its_key_will_expire():
    tables = EMPTY_TABLES.with_keys(KeyTable(1, (key("a"), key("b", 100.0))))
    tables.remember("Bearer a", key("a"))
    tables.remember("Bearer b", key("b", 100.0))
    assert list(tables.callers) == ["Bearer a"]
    assert list(tables.with_routes(RouteTable(2, ())).callers) == ["Bearer a"]
    assert not tables.with_keys(KeyTable(2, (key("a"),))).callers


def test_no_header_is_not_a_wrong_key():
    with pytest.raises(ForbiddenError):
        authenticate([], TABLES, PEPPER, 50.0)


def test_figures_of_live_workers_become_prometheus_text(tmp_path):
    figures = Figures()
    for first in (0.25, None):
        figures.count(
            ("/v1/chat/completions", 'a"b\\', 200),
            duration_s=0.5,
            first_byte_s=first,
            prompt_tokens=3,
            completion_tokens=4,
        )
    rows = list(figures.rows.values())
    write_figures(tmp_path, WorkerFigures(0, os.getpid(), True, 2, 7, 8, rows))
    write_figures(tmp_path, WorkerFigures(1, 2**22 + 1, True, 9, 9, 9, []))
    text = prometheus_text(read_figures(tmp_path))
    labels = 'worker="0",route="/v1/chat/completions",endpoint="a\\"b\\\\",status="200"'
    assert f"weighbridge_gateway_requests_total{{{labels}}} 2\n" in text
    assert f"weighbridge_gateway_request_seconds_sum{{{labels}}} 1.0\n" in text
    assert f"weighbridge_gateway_first_byte_seconds_count{{{labels}}} 1\n" in text
    assert f"weighbridge_gateway_completion_tokens_total{{{labels}}} 8\n" in text
    assert 'weighbridge_gateway_in_flight{worker="0"} 2\n' in text
    assert 'worker="1"' not in text
    assert text.count("# TYPE weighbridge_gateway_requests_total counter") == 1
