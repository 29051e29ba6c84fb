"""Which program may run on which schema (D9): an older one on a newer schema only where that one says so."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from weighbridge.errors import SetupError, UnavailableError
from weighbridge.storage.database import Database, driver_url
from weighbridge.storage.schema.migrate import current_schema, migrate
from weighbridge.storage.schema.support import OLDEST_PROGRAM, head_schema, require_schema


@pytest.fixture
def own_url(database_url: str, worker_id: str) -> Iterator[str]:
    name = f"migrate_{worker_id}"
    admin = create_engine(driver_url(database_url), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield database_url.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def require(url: str) -> None:
    """As each start does."""

    async def look() -> None:
        database = Database(url)
        try:
            await require_schema(database)
        finally:
            await database.close()

    asyncio.run(look())


def pretend_upgraded(url: str, *, oldest: int) -> None:
    """As a newer program's migration would leave it."""
    engine = create_engine(driver_url(url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
        connection.execute(
            text("UPDATE counters SET value = :oldest WHERE name = :name"),
            {"name": OLDEST_PROGRAM, "oldest": oldest},
        )
    engine.dispose()


def test_an_empty_database_is_too_old_and_nothing_is_made_in_it(own_url: str) -> None:
    with pytest.raises(SetupError, match=r"is empty.*Run `weighbridge migrate`"):
        require(own_url)
    assert current_schema(own_url) is None


def test_a_migrated_database_is_right_and_stays_as_it_is(own_url: str) -> None:
    schema = migrate(own_url)
    assert migrate(own_url) == schema == current_schema(own_url) == head_schema()
    require(own_url)


def test_a_newer_schema_that_still_carries_this_program_is_used_and_left_alone(
    own_url: str,
) -> None:
    migrate(own_url)
    pretend_upgraded(own_url, oldest=1)
    require(own_url)
    assert migrate(own_url) == "0999"


@pytest.mark.parametrize("use", [require, migrate])
def test_a_newer_schema_that_has_left_this_program_behind_is_refused(own_url: str, use) -> None:
    migrate(own_url)
    pretend_upgraded(own_url, oldest=999)
    with pytest.raises(SetupError, match="at schema 0999, which this Weighbridge does not know"):
        use(own_url)
    assert current_schema(own_url) == "0999"


@pytest.mark.parametrize("use", [require, migrate, current_schema])
def test_a_database_that_is_away_is_named_without_its_password(use) -> None:
    with socket.socket() as deaf:  # bound, so that nobody else listens there either
        deaf.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{deaf.getsockname()[1]}/wb"
        with pytest.raises(UnavailableError) as refused:
            use(f"postgresql://u:secret@{place}")
    assert refused.value.code == "database_unreachable"
    assert refused.value.message.startswith(f"The database at {place} cannot be used: connection")
    assert "secret" not in refused.value.message
