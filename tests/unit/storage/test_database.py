"""The pool and the units of work: how a database that is busy, gone or wrong shows to callers (D8)."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from weighbridge.errors import UnavailableError
from weighbridge.storage import database as module
from weighbridge.storage.database import Database, driver_url

ABSENT = "postgresql://somebody:hush@/postgres?host=/nonexistent"


async def test_a_pool_run_dry_is_a_passing_trouble(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POOL_CONNECTIONS", 1)
    monkeypatch.setattr(module, "POOL_OVERFLOW", 0)
    monkeypatch.setattr(module, "POOL_WAIT_S", 0.1)
    small = Database(database_url)
    async with small.begin():
        with pytest.raises(UnavailableError) as caught:
            await small.ping()
    await small.close()
    assert caught.value.code == "database_busy"


async def wait_for_the_lock(database: Database) -> None:
    async with database.begin() as tx:
        await tx.execute(text("SET LOCAL lock_timeout = '50ms'"))
        await tx.execute(text("SELECT * FROM counters"))


async def lose_the_connection(database: Database) -> None:
    """Everything in the block goes well; the server has gone when it is to be committed."""
    async with database.begin() as tx:
        pid = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        async with database.begin() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


async def test_a_lock_that_is_held_too_long_is_a_passing_trouble(database: Database) -> None:
    async with database.begin() as holder:
        await holder.execute(text("LOCK TABLE counters IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(UnavailableError) as caught:
            await wait_for_the_lock(database)
    assert caught.value.code == "database_busy"


async def test_a_value_that_no_column_can_hold_is_not_taken_for_an_outage(
    database: Database,
) -> None:
    with pytest.raises(DBAPIError):
        async with database.begin() as tx:
            await tx.execute(text("SELECT CAST(:value AS text)"), {"value": "a\0b"})


async def test_a_commit_whose_answer_is_lost_is_not_called_undone(database: Database) -> None:
    with pytest.raises(UnavailableError) as caught:
        await lose_the_connection(database)
    assert caught.value.code == "database_unavailable"
    assert "nothing was changed" not in caught.value.message
    await database.ping()


async def end_idle_connections(database: Database, other: Database) -> None:
    """As a server that was started anew leaves them: in the pool, and dead."""
    async with database.begin() as tx:
        pid = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    async with other.begin() as tx:
        await tx.execute(text("SELECT pg_terminate_backend(:pid, 1000)"), {"pid": pid})


async def test_a_connection_that_died_while_it_lay_idle_is_replaced_without_a_word(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_IDLE_S", 0.0)
    pooled = Database(database_url)
    for _ in range(2):
        await end_idle_connections(pooled, database)
        await pooled.ping()
    await pooled.close()


async def test_one_that_was_in_use_a_moment_ago_is_not_asked_and_tells_of_its_end_once(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_IDLE_S", 60.0)
    pooled = Database(database_url)
    await end_idle_connections(pooled, database)
    with pytest.raises(UnavailableError, match="nothing was changed"):
        await pooled.ping()
    await pooled.ping()
    await pooled.close()


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    absent = Database(ABSENT)
    with pytest.raises(UnavailableError) as caught:
        await absent.ping()
    await absent.close()
    assert caught.value.code == "database_unavailable"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://me:pw@one:6432,two/main", ("one:6432", "two:5432")),
        ("postgres://one,two,three/main?sslmode=require", ("one:5432", "two:5432", "three:5432")),
    ],
)
def test_of_several_hosts_the_one_that_takes_writes_is_meant(
    url: str, hosts: tuple[str, ...]
) -> None:
    found = driver_url(url)
    assert found.query["host"] == hosts
    assert found.query["target_session_attrs"] == "read-write"
    assert found.database == "main"
    chosen = driver_url(f"{url}{'&' if '?' in url else '?'}target_session_attrs=any")
    assert chosen.query["target_session_attrs"] == "any"


def test_a_single_host_stays_as_it_is() -> None:
    found = driver_url("postgresql://me:p,w@one/main")
    assert (found.host, found.password, dict(found.query)) == ("one", "p,w", {})
