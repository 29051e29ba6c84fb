"""A control process that finds its database away, as in a failover, waits for it; not for ever."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from weighbridge.clock import Clock
from weighbridge.errors import SetupError, UnavailableError
from weighbridge.server.control import START_WAIT_S, await_schema
from weighbridge.storage import embedded
from weighbridge.storage.database import Database
from weighbridge.storage.schema.migrate import migrate


@pytest.fixture
def directory(public_tmp_path: Path) -> Path:
    return public_tmp_path / "postgres"


@pytest.fixture
async def stopped(directory: Path) -> AsyncIterator[Database]:
    """A migrated one that nobody serves."""
    url = embedded.start(directory)
    try:
        migrate(url)
    finally:
        embedded.stop(directory)
    database = Database(url)
    yield database
    await database.close()
    embedded.stop(directory)


async def test_a_database_that_comes_back_is_waited_for(stopped: Database, directory: Path) -> None:
    with structlog.testing.capture_logs() as told:
        waiting = asyncio.create_task(await_schema(stopped, Clock()))
        for _ in range(500):
            if told:
                break
            await asyncio.sleep(0.01)
        assert told
        assert not waiting.done()
        await asyncio.to_thread(embedded.start, directory)
        await waiting
    assert {line["event"] for line in told} == {"control.waits"}
    assert told[0]["code"] == "database_unreachable"
    assert str(directory) in told[0]["reason"]


async def test_one_that_stays_away_is_told_of(stopped: Database) -> None:
    seconds = iter((0.0, START_WAIT_S - 0.1, START_WAIT_S))
    with pytest.raises(UnavailableError, match="cannot be used: connection") as refused:
        await await_schema(stopped, replace(Clock(), monotonic=lambda: next(seconds)))
    assert refused.value.code == "database_unreachable"


async def test_one_that_is_not_for_this_program_is_not_waited_for(
    stopped: Database, directory: Path
) -> None:
    embedded.start(directory)
    async with stopped.begin() as tx:
        await tx.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(SetupError, match="Run `weighbridge migrate`"):
        await await_schema(stopped, Clock())


async def test_a_user_without_a_right_is_told_which(stopped: Database, directory: Path) -> None:
    url = embedded.start(directory)
    async with stopped.begin() as tx:
        await tx.exec_driver_sql("CREATE ROLE guest LOGIN")
    guest = Database(url.replace("postgres@", "guest@").replace("postgres:@", "guest@"))
    try:
        with pytest.raises(SetupError, match="refuses its user: permission denied") as refused:
            await await_schema(guest, Clock())
    finally:
        await guest.close()
    assert refused.value.code == "database_forbidden"
