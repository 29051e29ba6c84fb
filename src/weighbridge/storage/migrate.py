"""Bring a database's schema to what this program expects (D9): forward only, one process at a time."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
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
    """Apply what is missing in one transaction; a newer schema than ours raises SetupError before any write."""
    engine = create_engine(driver_url(url), poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            _upgrade(connection, schema)
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise SetupError(
            f"The database cannot be reached or cannot be upgraded: {reason}", code="database_away"
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
