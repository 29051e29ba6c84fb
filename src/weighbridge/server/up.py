"""`weighbridge up` and `weighbridge down`: the whole server on one machine."""

import asyncio
import threading
from contextlib import suppress
from importlib.metadata import version

from weighbridge.accounts.service import ensure_admin_key
from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.routing.tokens import load_pepper
from weighbridge.runtimes.processes import HeldLock
from weighbridge.server.database import OnText, running_database
from weighbridge.server.roles.places import make_directories
from weighbridge.server.roles.processes import public_url, services
from weighbridge.server.stopping import down as stop_services
from weighbridge.server.supervisor import Supervisor, ask_to_leave, take_supervisor_lock
from weighbridge.server.telling import Telling
from weighbridge.settings import Settings
from weighbridge.storage import embedded
from weighbridge.storage.database import Database
from weighbridge.storage.schema.migrate import migrate


def up(
    settings: Settings, *, on_event: OnText, on_first_key: OnText, take_over: bool = False
) -> int:
    """Start everything, stay, and stop everything at SIGTERM or SIGINT; returns the exit code.

    With `take_over` another `up` on the data directory is followed: it ends, what it has started goes on, and only
    what runs with other settings or another version is replaced.

    `on_event` gets lines for a person; `on_first_key` the admin key, once in the life of a data
    directory. Raises SetupError when this machine or its settings do not allow it, UnavailableError when the team's
    own database is away.
    """

    def tell(text: str) -> None:
        with suppress(OSError):  # a terminal that was closed ends the telling, not the services
            on_event(text)

    paths = settings.paths
    try:
        make_directories(paths)
        if take_over:
            ask_to_leave(paths.run)
        left = threading.Event()
        with take_supervisor_lock(paths.run) as lock:
            tell(f"Starting Weighbridge {version('weighbridge')}; its data is in {paths.root}.")
            with running_database(settings, tell, left.is_set) as url:
                if _run(settings, url, lock, tell, on_first_key):
                    left.set()
        tell("Another `up` follows this one." if left.is_set() else "Everything is stopped.")
    except OSError as error:
        where = error.filename or paths.root
        raise SetupError(
            f"The server cannot go on: {error.strerror or error} ({where}).", code="machine_unfit"
        ) from error
    return 0


def _run(settings: Settings, url: str, lock: HeldLock, tell: OnText, on_first_key: OnText) -> bool:
    """Whether the services were left to another supervisor."""
    paths = settings.paths
    migrate(url)
    key = asyncio.run(_first_key(url, load_pepper(paths.secrets)))
    if key is not None:
        on_first_key(key)
    parts = services(settings, url)
    supervisor = Supervisor(
        parts,
        paths.run,
        paths.logs,
        version=version("weighbridge"),
        on_event=Telling([part.name for part in parts], public_url(settings), paths.logs, tell),
    )
    return supervisor.run(lock)


def down(settings: Settings) -> int:
    """Stop what runs on the data directory, whoever started it; returns the exit code (0, also for nothing)."""
    paths = settings.paths
    if paths.run.exists():
        stop_services(paths.run)
    if settings.database_url is None:
        embedded.stop(paths.postgres)
    return 0


async def _first_key(url: str, pepper: bytes) -> str | None:
    database, clock = Database(url), Clock()
    try:
        async with database.begin() as tx:
            return await ensure_admin_key(
                tx,
                pepper=pepper,
                key_id=clock.new_short_id(),
                secret=clock.new_secret(),
                now=clock.now(),
            )
    finally:
        await database.close()
