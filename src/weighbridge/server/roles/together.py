"""Several roles of `weighbridge serve` under one supervisor."""

import asyncio
from importlib.metadata import version

from weighbridge.server.database import OnText
from weighbridge.server.roles.processes import public_url
from weighbridge.server.services import Service
from weighbridge.server.supervisor import Supervisor, ask_to_leave, take_supervisor_lock
from weighbridge.server.telling import Telling
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.storage.schema.support import require_schema


def supervise(
    settings: Settings,
    parts: list[Service],
    database_url: str | None,
    on_event: OnText,
    *,
    take_over: bool,
) -> int:
    """Run them until SIGTERM or SIGINT; returns the exit code.

    `database_url` is given where one of them needs the database: before any is started, SetupError tells of a schema
    that this program may not use, and UnavailableError of a database that is away.
    """
    if database_url is not None:
        asyncio.run(_require_schema(database_url))
    paths = settings.paths
    if take_over:
        ask_to_leave(paths.run)
    with take_supervisor_lock(paths.run) as lock:
        names = [part.name for part in parts]
        shown = public_url(settings) if "gateway" in names else ", ".join(names)
        telling = Telling(names, shown, paths.logs, on_event)
        Supervisor(
            parts, paths.run, paths.logs, version=version("weighbridge"), on_event=telling
        ).run(lock)
    return 0


async def _require_schema(url: str) -> None:
    database = Database(url)
    try:
        await require_schema(database)
    finally:
        await database.close()
