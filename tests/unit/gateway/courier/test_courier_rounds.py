"""How a courier begins: which gateways may serve by the tables that are there already."""

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select

from weighbridge.clock import monotonic_s
from weighbridge.control.wake import Wake
from weighbridge.errors import SetupError
from weighbridge.gateway.courier.reports import Reports
from weighbridge.gateway.courier.rounds import Courier
from weighbridge.gateway.courier.tables import Tables
from weighbridge.routing.acks import GatewayView, WorkerColumn, open_acks
from weighbridge.routing.files import SnapshotFile, write_snapshot
from weighbridge.routing.hosts.identity import HostIdentity
from weighbridge.routing.model import KeyTable, RouteTable
from weighbridge.routing.published import KEYS, ROUTES, Published
from weighbridge.routing.tokens import load_pepper, pepper_mark
from weighbridge.settings import DataDir
from weighbridge.storage.database import Database
from weighbridge.storage.tables import gateway_hosts

HERE = "boot/1"


@pytest.fixture
def courier(database: Database, paths: DataDir) -> Courier:
    tables = Tables(database, paths, paths.secrets, HERE)
    view = GatewayView(open_acks(paths.acks_file))
    reports = Reports(database, HostIdentity("h:1", "h"), view, tables, monotonic_s)
    return Courier(
        database, tables, reports, Wake(),
        require_schema=_fits, answered=lambda looked, reported: None, unix_s=lambda: 0.0,
    )  # fmt: skip


@pytest.fixture
async def newest(database: Database, paths: DataDir) -> RouteTable:
    """What the database has; the host's own file is older."""
    write_snapshot(paths.routes_file, RouteTable(3, ()))
    table, mark = RouteTable(4, ()), pepper_mark(load_pepper(paths.secrets))
    async with database.begin() as tx:
        await Published(ROUTES, RouteTable).put(tx, table, place=HERE, pepper_mark=mark)
        await Published(KEYS, KeyTable).put(tx, KeyTable(1, ()), place=HERE, pepper_mark=mark)
    return table


async def _fits() -> None:
    """It is the program's own."""


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def write(file: object, table: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(SnapshotFile, "write", write)
        yield


async def hosts(database: Database) -> int:
    async with database.begin() as tx:
        return (await tx.execute(select(func.count()).select_from(gateway_hosts))).scalar_one()


async def test_a_host_that_cannot_write_newer_tables_does_not_begin_by_old_ones(
    courier: Courier, database: Database, newest: RouteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        full_disk(monkeypatch),
        pytest.raises(SetupError, match=r"No space left on device.*start the gateway again"),
    ):
        await courier.look_first()
    assert await hosts(database) == 0, "nobody waits for a host that does not serve"
    await courier.look_first()
    assert await hosts(database) == 1


async def test_where_workers_serve_already_their_courier_goes_on_without(
    courier: Courier,
    database: Database,
    paths: DataDir,
    newest: RouteTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    column = WorkerColumn(open_acks(paths.acks_file), 0, os.getpid())
    column.acknowledge(3, 0)
    with full_disk(monkeypatch):
        await courier.look_first()
    assert await hosts(database) == 1, "they are still waited for"


async def test_a_host_whose_tables_are_the_newest_needs_to_write_nothing(
    courier: Courier,
    database: Database,
    paths: DataDir,
    newest: RouteTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await courier.look_first()
    with full_disk(monkeypatch):
        await courier.look_first()
    assert await hosts(database) == 1


async def test_a_host_begins_by_what_it_has_while_the_database_is_away(
    courier: Courier, database: Database, newest: RouteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Database) -> object:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(Database, "begin", away)
        async with asyncio.timeout(5.0):
            await courier.look_first()
    assert await hosts(database) == 0
