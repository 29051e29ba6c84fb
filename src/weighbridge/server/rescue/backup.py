"""`weighbridge backup`: the database of one moment in one file, whether the server runs or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from weighbridge.errors import SetupError
from weighbridge.routing.tokens import load_pepper, pepper_mark
from weighbridge.server.rescue import programs
from weighbridge.server.rescue.archive import FORMAT, Facts, pack, written_whole
from weighbridge.server.supervisor import take_supervisor_lock
from weighbridge.settings import Settings
from weighbridge.storage import embedded
from weighbridge.storage.schema.migrate import current_schema


def backup(settings: Settings, path: Path, *, with_secrets: bool, now: datetime) -> Facts:
    """Write the file, mode 600, over one of that name. Raises SetupError where there is nothing to back up.

    UnavailableError when the database is away.
    """
    pepper = load_pepper(settings.paths.secrets)
    try:
        with _database(settings) as url, written_whole(path.absolute()) as temporary:
            schema = current_schema(url)
            if schema is None:
                raise SetupError("The database is empty.", code="no_data")
            facts = Facts(
                FORMAT, version("weighbridge"), schema, now.isoformat(), pepper_mark(pepper)
            )
            dump = temporary.with_name(f"{temporary.name}.dump")
            try:
                dump.touch(mode=0o600, exist_ok=False)
                programs.dump(url, dump)
                pack(temporary, facts, dump, pepper if with_secrets else None)
            finally:
                dump.unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(
            f"The backup cannot be written to {path}: {error.strerror or error}.",
            code="backup_failed",
        ) from error
    return facts


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    paths = settings.paths
    if not (paths.postgres / "PG_VERSION").exists():
        raise SetupError(f"There is no server's data in {paths.root}.", code="no_data")
    if embedded.is_running(paths.postgres):
        yield embedded.start(paths.postgres)
        return
    with take_supervisor_lock(paths.run):
        url = embedded.start(paths.postgres)
        try:
            yield url
        finally:
            embedded.stop(paths.postgres)
