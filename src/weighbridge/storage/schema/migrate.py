"""Bring a database's schema to what this program expects (D9): forward only, one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from weighbridge.errors import SetupError
from weighbridge.storage.database import driver_url, forbidden, unreachable
from weighbridge.storage.schema.support import (
    MIGRATIONS,
    OLDEST_PROGRAM,
    head_schema,
    refuse_too_new,
)

# Any constant: it names the advisory lock that lets one process migrate while others wait.
_MIGRATION_LOCK = 0x57656967

_SUPPORT = text(
    """
    INSERT INTO counters (name, value) VALUES (:name, :oldest)
    ON CONFLICT (name) DO UPDATE SET value = greatest(counters.value, excluded.value)
    """
)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def migrate(url: str, *, schema: str | None = None) -> str:
    """Apply what is missing in one transaction; nothing to a newer schema that this program may still use.

    Returns where the schema is then.

    Raises SetupError before any write when the schema is too new for this program, or its user may not make tables,
    and UnavailableError when the database cannot be reached.
    """
    with _connected(url) as connection:
        return _upgrade(connection, schema)


def current_schema(url: str) -> str | None:
    """None for a database without one. Raises UnavailableError when it cannot be reached."""
    with _connected(url) as connection:
        return _found(connection)


def refuse_unknown(schema: str) -> None:
    """SetupError for a schema of a newer program than this one."""
    if schema > head_schema():
        raise SetupError(
            f"This needs a newer Weighbridge: its schema is {schema}, and this one knows {head_schema()}.",
            code="schema_new",
        )


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(driver_url(url), poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as error:
        raise unreachable(engine.url, error) from error
    except ProgrammingError as error:
        raise forbidden(engine.url, error) from error
    finally:
        engine.dispose()


def _upgrade(connection: Connection, schema: str | None) -> str:
    if schema is not None:
        connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
        connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    config = _config(connection)
    found, head = _found(connection), head_schema()
    if found is not None and found > head:
        refuse_too_new(found, _oldest(connection), head)
        return found
    command.upgrade(config, "head")
    oldest = int(_script(config).module.oldest_program)
    connection.execute(_SUPPORT, {"name": OLDEST_PROGRAM, "oldest": oldest})
    return head


def _oldest(connection: Connection) -> int | None:
    row = connection.execute(
        text("SELECT value FROM counters WHERE name = :name"), {"name": OLDEST_PROGRAM}
    )
    found: int | None = row.scalar_one_or_none()
    return found


def _found(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _script(config: Config) -> Script:
    script = ScriptDirectory.from_config(config).get_revision("head")
    assert script is not None
    return script
