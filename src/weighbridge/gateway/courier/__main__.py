"""The courier process: one beside the workers of a gateway whose controller may be on another machine.

It never stands between a caller and an answer: when it or the database is away, the workers serve on by the
tables they have. Started by the gateway's parent, never alone; its first line on standard output is `ready`,
or why this host cannot serve.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress

import structlog

from weighbridge.clock import Clock
from weighbridge.control.announce import SharedWake
from weighbridge.control.loop import Loop, backoff_s
from weighbridge.control.wake import Wake
from weighbridge.errors import SetupError, StaleError, UnavailableError
from weighbridge.gateway.courier.child import READY
from weighbridge.gateway.courier.figures import write_courier_figures
from weighbridge.gateway.courier.reports import Reports
from weighbridge.gateway.courier.tables import Tables
from weighbridge.gateway.options import EXIT_SETUP, Options, read_options
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.routing.hosts.identity import host_identity, place
from weighbridge.routing.published import WAKE
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.storage.migrate import require_schema
from weighbridge.telemetry.logs import configure_logs
from weighbridge.usage.reconciler import UsageReconciler

log = structlog.get_logger()

LOOK_S = 1.0
"""The tables are looked at this often where no wake-up comes; also the longest pause after a failure."""
TICK_S = 0.1
"""How often the shared memory is looked at for what is to be told at once."""
FIRST_LOOK_S = 8.0
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
        courier = Courier(options, database, url)
        await courier.look_first()
        _tell_parent(READY)
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(work) for work in courier.works()]
            while not stop.is_set() and os.getppid() == parent:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PARENT_POLL_S):
                        await stop.wait()
            for task in working:
                task.cancel()
        await courier.look_last()
    finally:
        await database.close()


class Courier:
    def __init__(self, options: Options, database: Database, url: str) -> None:
        paths, clock = options.data_dir, Clock()
        self._database = database
        self._url = url
        self._run = paths.run
        self._unix_s = clock.unix_s
        self._looked_unix_s = self._reported_unix_s = 0.0
        self._admitted = False
        self._wake = Wake()
        self._shared = SharedWake(database, self._wake, clock.new_short_id())
        self._tables = Tables(database, paths, options.pepper_dir, place())
        view = GatewayView(open_acks(paths.acks_file))
        self._reports = Reports(database, host_identity(paths), view, self._tables, clock.monotonic)
        self._usage = UsageReconciler(database, clock, paths.usage, sweeps=False)

    async def look_first(self) -> None:
        """Enter and bring the newest tables, so that the first worker begins with them; without a database, go on."""
        await self._tables.look_here()
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._admit()
                # First the row: nobody is forgotten who may serve by the tables that are here already.
                await self._reports.send()
                await self._tables.bring()
        except (UnavailableError, TimeoutError, StaleError, OSError) as error:
            log.warning("courier.begins_without", reason=str(error))

    def works(self) -> Sequence[Coroutine[object, object, None]]:
        usage = Loop("usage", self._usage.reconcile, self._wake)
        return [self._bring(), self._report(), self._shared.listen(), usage.run()]

    async def look_last(self) -> None:
        """Once the workers have ended: that nobody is here any more, and what they have used."""
        for last in (self._reports.leave, self._usage.reconcile):
            with suppress(UnavailableError, StaleError, TimeoutError, OSError):
                async with asyncio.timeout(LAST_LOOK_S):
                    await last()

    async def _admit(self) -> None:
        """SetupError where schema, pepper or addresses do not fit; asked until the database has answered once."""
        if self._admitted:
            return
        try:
            await asyncio.to_thread(require_schema, self._url)
        except SetupError as error:
            if error.code == "database_unreachable":
                raise UnavailableError(error.message) from error
            raise
        async with self._database.begin() as tx:
            await self._tables.admit(tx)
        self._admitted = True

    async def _bring(self) -> None:
        failures = 0
        while True:
            pause_s = LOOK_S
            try:
                await self._admit()
                await self._tables.bring()
                self._looked_unix_s = self._unix_s()
                self._tell()
                if failures:
                    log.info("tables.brought_again", routes=self._tables.routes_generation)
                failures = 0
            except (UnavailableError, OSError) as error:
                failures += 1
                pause_s = min(LOOK_S, backoff_s(failures))
                if failures == 1:
                    log.warning("tables.not_brought", reason=str(error))
            await self._wake.wait(WAKE, pause_s)

    def _tell(self) -> None:
        """Each second, while the database answers."""
        write_courier_figures(
            self._run, looked_unix_s=self._looked_unix_s, reported_unix_s=self._reported_unix_s
        )

    async def _report(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(min(LOOK_S, backoff_s(failures)) if failures else TICK_S)
            if not self._admitted or not self._reports.due:
                continue
            try:
                await self._reports.send()
                self._reported_unix_s = self._unix_s()
                failures = 0
            except StaleError as error:
                self._reports.enter_anew(error)
            except UnavailableError as error:
                failures += 1
                if failures == 1:
                    log.warning("host.not_reported", reason=error.message)


def _tell_parent(line: str) -> None:
    with suppress(OSError):  # it may have gone
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
