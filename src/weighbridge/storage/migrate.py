"""Bring a database's schema to what this program expects (D9): forward only, one process at a time."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from weighbridge.errors import SetupError
from weighbridge.storage.database import driver_url

# Any constant: it names the advisory lock that lets one process migrate while others wait.
_MIGRATION_LOCK = 0x57656967


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def migrate(url: str, *, schema: str | None = None) -> None:
    """Apply what is missing in one transaction.

    Raises SetupError before any write when the schema is newer than ours, when the database cannot be
    reached, and when its user may not make tables.
    """
    engine = create_engine(driver_url(url), poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            _upgrade(connection, schema)
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


def _upgrade(connection: Connection, schema: str | None) -> None:
    if schema is not None:
        connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
        connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    config = _config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise SetupError(
            f"The database is at schema {current}, which this Weighbridge does not know: "
            "it was upgraded by a newer one. Run that version, or restore a backup."
        )
    command.upgrade(config, "head")


def _place(url: URL) -> str:
    """Which database, without the user's name and password."""
    host = url.host or url.query.get("host") or "the local socket"
    port = f":{url.port}" if url.port else ""
    return f"{host}{port}/{url.database or ''}"
