"""`weighbridge restore`: a backup's database, with numbers that cannot meet those given after the backup (V1)."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from weighbridge.errors import SetupError
from weighbridge.registry.store import NUMBERS_FLOOR
from weighbridge.routing.tokens import load_pepper, pepper_mark, store_pepper
from weighbridge.runtimes.processes import lock_holder
from weighbridge.server.rescue import programs
from weighbridge.server.rescue.archive import Facts, read_facts, read_pepper, unpack_dump
from weighbridge.server.roles.leading import CONTROLLER_TTL_S
from weighbridge.server.roles.places import make_directories
from weighbridge.server.supervisor import take_supervisor_lock
from weighbridge.settings import Settings
from weighbridge.storage import embedded
from weighbridge.storage.database import driver_url
from weighbridge.storage.schema.migrate import current_schema, migrate, refuse_unknown

NUMBERS_SKIPPED = 1_000
"""At once after a backup; besides, one for each second since: nobody uploads more versions of one architecture."""
EPOCHS_SKIPPED = 1_000_000
"""A controller of the time after the backup has no lease under any epoch given from now on."""

_SKIP = """
WITH floor AS (
    SELECT greatest(coalesce(max(last), 0) + {skip}, {known}) AS value FROM (
        SELECT last FROM version_counters
        UNION ALL SELECT value FROM counters WHERE name = '{name}'
    ) AS given (last)
), raised AS (
    UPDATE version_counters SET last = floor.value FROM floor
)
INSERT INTO counters (name, value) SELECT '{name}', value FROM floor
ON CONFLICT (name) DO UPDATE SET value = excluded.value;
UPDATE leases SET epoch = epoch + {epochs}, expires_at = '-infinity';
UPDATE counters SET value = value + {generations} WHERE name IN ('routes', 'keys');
DELETE FROM gateway_tables;
DELETE FROM gateway_hosts;
"""
_KNOWN = text(
    """
    SELECT max(last) FROM (
        SELECT last FROM version_counters UNION ALL SELECT value FROM counters WHERE name = :name
    ) AS given (last)
    """
)
_CLEAR = "DROP SCHEMA IF EXISTS public CASCADE;\nCREATE SCHEMA public;\n"


@dataclass(frozen=True, slots=True)
class Restored:
    facts: Facts
    numbers_floor: int
    keys_work: bool
    """Whether this data directory's pepper is the one under which the keys were stored."""


def restore(settings: Settings, path: Path, *, replace: bool, now: datetime) -> Restored:
    """Put the backup into the database, in one transaction.

    Raises SetupError while anything of the server runs, for a backup of a newer schema, and, without `replace`,
    for a database that has something in it; UnavailableError when the database is away.
    """
    facts = read_facts(path)
    refuse_unknown(facts.schema)
    make_directories(settings.paths)
    with _alone(settings) as url:
        since_s = (now - datetime.fromisoformat(facts.taken_at)).total_seconds()
        floor = _put(url, path, replace=replace, skip=NUMBERS_SKIPPED + max(0, math.ceil(since_s)))
        migrate(url)
    secrets = settings.paths.secrets
    pepper = read_pepper(path)
    if pepper is not None:
        store_pepper(secrets, pepper)
    return Restored(facts, floor, pepper_mark(load_pepper(secrets)) == facts.pepper_mark)


def _put(url: str, path: Path, *, replace: bool, skip: int) -> int:
    known = 0
    if current_schema(url) is not None:
        if not replace:
            raise SetupError(
                "The database has data in it. `--replace` removes all of it first.",
                code="database_not_empty",
            )
        with _connection(url) as connection:
            _refuse_led(connection)
            known = connection.execute(_KNOWN, {"name": NUMBERS_FLOOR}).scalar_one() or 0
    with tempfile.TemporaryDirectory() as directory:
        dump, script = Path(directory, "dump"), Path(directory, "script.sql")
        unpack_dump(path, dump)
        programs.script(dump, script)
        # Each later restore of one file begins higher: a lease is taken less often than once a second.
        epochs = EPOCHS_SKIPPED + skip
        # Gateways elsewhere may have tables of any generation that was published since.
        skipping = _SKIP.format(
            skip=skip, known=known, name=NUMBERS_FLOOR, epochs=epochs, generations=epochs
        )
        head = _CLEAR if replace else ""
        # pg_dump empties the search path.
        tail = f"\nSET search_path TO public;\n{skipping}"
        before, after = Path(directory, "before.sql"), Path(directory, "after.sql")
        before.write_text(head)
        after.write_text(tail)
        programs.play(url, before, script, after)
    with _connection(url) as connection:
        named = {"name": NUMBERS_FLOOR}
        row = connection.execute(text("SELECT value FROM counters WHERE name = :name"), named)
        return int(row.scalar_one())


def _refuse_led(connection: Connection) -> None:
    led = "SELECT holder FROM leases WHERE name = 'controller' AND expires_at > clock_timestamp()"
    holder = connection.execute(text(led)).scalar_one_or_none()
    if holder is not None:
        raise SetupError(
            f"A controller runs on this database ({holder}); stop all of them first. "
            f"One that was killed counts for {CONTROLLER_TTL_S:g} s more.",
            code="server_runs",
        )


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
    engine = create_engine(driver_url(url), poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _alone(settings: Settings) -> Iterator[str]:
    """The database's URL, while no process of this data directory runs."""
    paths = settings.paths
    with take_supervisor_lock(paths.run):
        for lock in sorted(paths.run.glob("*.lock")):
            holder = None if lock.stem == "supervisor" else lock_holder(lock)
            if holder is not None:
                raise SetupError(
                    f"The {lock.stem} runs on {paths.root} (process {holder.pid}); "
                    "stop it with `weighbridge down`.",
                    code="server_runs",
                )
        if settings.database_url is not None:
            yield settings.database_url.get_secret_value()
            return
        url = embedded.start(paths.postgres)
        try:
            yield url
        finally:
            embedded.stop(paths.postgres)
