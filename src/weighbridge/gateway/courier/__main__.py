"""The courier process: one beside the workers of a gateway whose controller may be on another machine.

It never stands between a caller and an answer: when it or the database is away, the workers serve on by the
tables they have. Started by the gateway's parent, never alone; its first line on standard output is `ready`,
or why this host cannot serve.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import structlog

from weighbridge.clock import Clock
from weighbridge.control.announce import SharedWake
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.errors import SetupError, StaleError, UnavailableError
from weighbridge.gateway.courier.child import READY
from weighbridge.gateway.courier.figures import write_courier_figures
from weighbridge.gateway.courier.reports import Reports
from weighbridge.gateway.courier.rounds import Courier
from weighbridge.gateway.courier.tables import Tables
from weighbridge.gateway.options import EXIT_SETUP, Options, read_options
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.routing.hosts.identity import host_identity, place
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.storage.schema.support import require_schema
from weighbridge.telemetry.logs import configure_logs
from weighbridge.usage.reconciler import UsageReconciler

log = structlog.get_logger()

LAST_LOOK_S = 5.0
PARENT_POLL_S = 0.5


def main(argv: Sequence[str]) -> int:
    settings = Settings()
    options = read_options(argv, settings)
    configure_logs("gateway-courier", options.log_level)
    refused = ""
    try:
        asyncio.run(carry(options, database_url(settings), os.getppid()))
    except* SetupError as errors:
        refused = str(errors.exceptions[0])
    if not refused:
        return 0
    log.error("courier.refused", reason=refused)
    _tell_parent(refused)
    return EXIT_SETUP


def database_url(settings: Settings) -> str:
    """SetupError without one."""
    if settings.database_url is None:
        raise SetupError("A gateway's courier needs WEIGHBRIDGE_DATABASE_URL.")
    return settings.database_url.get_secret_value()


async def carry(options: Options, url: str, parent: int) -> None:
    """Until SIGTERM, SIGINT or the parent's death; SetupError where this host can never serve as it is."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = Database(url)
    try:
        wake, clock = Wake(), Clock()
        shared = SharedWake(database, wake, clock.new_short_id())
        usage = UsageReconciler(database, clock, options.data_dir.usage, sweeps=False)
        counting = Loop("usage", usage.reconcile, wake)
        courier = _courier(options, database, wake)
        await courier.look_first()
        _tell_parent(READY)
        async with asyncio.TaskGroup() as tasks:
            works = (courier.bring(), courier.report(), shared.listen(), counting.run())
            working = [tasks.create_task(work) for work in works]
            while not stop.is_set() and os.getppid() == parent:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PARENT_POLL_S):
                        await stop.wait()
            for task in working:
                task.cancel()
        await _end(courier.leave, usage.reconcile)
    finally:
        await database.close()


def _courier(options: Options, database: Database, wake: Wake) -> Courier:
    paths, clock = options.data_dir, Clock()
    tables = Tables(database, paths, options.pepper_dir, place())
    view = GatewayView(open_acks(paths.acks_file))
    return Courier(
        database,
        tables,
        Reports(database, host_identity(paths), view, tables, clock.monotonic),
        wake,
        require_schema=partial(require_schema, database),
        answered=partial(write_courier_figures, paths.run),
        unix_s=clock.unix_s,
    )


async def _end(*works: Callable[[], Awaitable[object]]) -> None:
    """What is still to be done once the workers have ended, as far as the database answers."""
    for last in works:
        with suppress(UnavailableError, StaleError, TimeoutError, OSError):
            async with asyncio.timeout(LAST_LOOK_S):
                await last()


def _tell_parent(line: str) -> None:
    with suppress(OSError):  # it may have gone
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
