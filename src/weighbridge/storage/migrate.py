"""Bring a database's schema to what this program expects (D9): forward only, one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from weighbridge.errors import SetupError
from weighbridge.storage.database import driver_url

# Any constant: it names the advisory lock that lets one process migrate while others wait.
_MIGRATION_LOCK = 0x57656967

_SCRIPTS = str(Path(__file__).parent / "migrations")
OLDEST_PROGRAM = "schema.oldest_program"
"""The counter that says which programs may run on this schema: those whose own schema is no older (expand/contract)."""
_SUPPORT = text(
    """
    INSERT INTO counters (name, value) VALUES (:name, :oldest)
    ON CONFLICT (name) DO UPDATE SET value = greatest(counters.value, excluded.value)
    """
)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", _SCRIPTS)
    config.attributes["connection"] = connection
    return config


def migrate(url: str, *, schema: str | None = None) -> str:
    """Apply what is missing in one transaction; nothing to a newer schema that this program may still use.

    Returns where the schema is then.

    Raises SetupError before any write when the schema is too new for this program, when the database cannot
    be reached, and when its user may not make tables.
    """
    with _connected(url) as connection:
        return _upgrade(connection, schema)


def require_schema(url: str) -> None:
    """SetupError unless this program may use the database as it is; changes nothing."""
    with _connected(url) as connection:
        found = _found(connection)
        head = _head(_config(connection))
        if found is None or found < head:
            state = "empty" if found is None else f"at schema {found}"
            raise SetupError(
                f"The database is {state}, and this Weighbridge needs schema {head}. Run `weighbridge migrate` "
                "with this version first.",
                code="schema_old",
            )
        _refuse_too_new(connection, found, head)


def current_schema(url: str) -> str | None:
    """None for a database without one. Raises SetupError when it cannot be reached."""
    with _connected(url) as connection:
        return _found(connection)


def refuse_unknown(schema: str) -> None:
    """SetupError for a schema of a newer program than this one."""
    config = Config()
    config.set_main_option("script_location", _SCRIPTS)
    if schema > _head(config):
        raise SetupError(
            f"This needs a newer Weighbridge: its schema is {schema}, and this one knows {_head(config)}.",
            code="schema_new",
        )


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(driver_url(url), poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            yield connection
    except (OperationalError, ProgrammingError) as error:
        if isinstance(error, ProgrammingError) and not isinstance(
            error.orig, InsufficientPrivilege
        ):
            raise
        said = str(error.orig).strip().splitlines() or ["it gives no reason"]
        raise SetupError(
            f"The database at {_place(engine.url)} cannot be used: {said[0]}. "
            "Check WEIGHBRIDGE_DATABASE_URL and that the database runs.",
            code="database_unreachable",
        ) from error
    finally:
        engine.dispose()


def _upgrade(connection: Connection, schema: str | None) -> str:
    if schema is not None:
        connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
        connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    config = _config(connection)
    found, head = _found(connection), _head(config)
    if found is not None and found > head:
        _refuse_too_new(connection, found, head)
        return found
    command.upgrade(config, "head")
    oldest = int(_script(config).module.oldest_program)
    connection.execute(_SUPPORT, {"name": OLDEST_PROGRAM, "oldest": oldest})
    return head


def _refuse_too_new(connection: Connection, found: str, head: str) -> None:
    """A newer program says in the database which older ones its schema still carries."""
    if found <= head:
        return
    named = {"name": OLDEST_PROGRAM}
    row = connection.execute(text("SELECT value FROM counters WHERE name = :name"), named)
    oldest = row.scalar_one_or_none()
    if oldest is None or int(head) < oldest:
        raise SetupError(
            f"The database is at schema {found}, which this Weighbridge does not know: "
            "it was upgraded by a newer one. Run that version, or restore a backup.",
            code="schema_new",
        )


def _found(connection: Connection) -> str | None:
    """Revisions are numbers of four digits, so they compare as text."""
    return MigrationContext.configure(connection).get_current_revision()


def _head(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head


def _script(config: Config) -> Script:
    script = ScriptDirectory.from_config(config).get_revision("head")
    assert script is not None
    return script


def _place(url: URL) -> str:
    """Which database, without the user's name and password."""
    host = url.host or url.query.get("host") or "the local socket"
    port = f":{url.port}" if url.port else ""
    return f"{host}{port}/{url.database or ''}"
