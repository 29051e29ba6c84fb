"""What a courier does again and again for its host: bring the tables, report what the workers have applied."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

import structlog

from weighbridge.control.loop import backoff_s
from weighbridge.control.wake import Wake
from weighbridge.errors import SetupError, StaleError, UnavailableError
from weighbridge.gateway.courier.reports import Reports
from weighbridge.gateway.courier.tables import Tables
from weighbridge.routing.published import WAKE
from weighbridge.storage.database import Database

log = structlog.get_logger()

LOOK_S = 1.0
"""The tables are looked at this often where no wake-up comes; also the longest pause after a failure."""
TICK_S = 0.1
"""How often the shared memory is looked at for what is to be told at once."""
FIRST_LOOK_S = 8.0


class Courier:
    """Of one start. `bring` and `report` run until they are cancelled.

    `require_schema` raises SetupError where this program is not for that database. `answered` hears, each second while
    the database answers, when it was last asked for tables and when it last took a report (Unix seconds, 0 where it
    has not).
    """

    def __init__(
        self,
        database: Database,
        tables: Tables,
        reports: Reports,
        wake: Wake,
        *,
        require_schema: Callable[[], Awaitable[None]],
        answered: Callable[[float, float], None],
        unix_s: Callable[[], float],
    ) -> None:
        self._database = database
        self._tables = tables
        self._reports = reports
        self._wake = wake
        self._require_schema = require_schema
        self._answered = answered
        self._unix_s = unix_s
        self._reported_unix_s = 0.0
        self._admitted = False

    async def look_first(self) -> None:
        """Enter and bring the newest tables, so that the first worker begins with them; without a database, go on.

        SetupError where newer ones cannot be written and nobody serves: nobody has waited for this host, so what its
        old ones name may be gone (G5).
        """
        await self._tables.look_here()
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._admit()
                # First the row: nobody is forgotten who may serve by the tables that are here already.
                await self._reports.send()
                await self._tables.bring()
        except (UnavailableError, TimeoutError, StaleError) as error:
            log.warning("courier.begins_without", reason=str(error))
        except OSError as error:
            log.warning("courier.begins_without", reason=str(error))
            if not self._reports.anybody_serves:
                with suppress(UnavailableError, StaleError):
                    await self._reports.leave()
                raise SetupError(
                    f"The newest routing tables cannot be written: {error}. See that the disk of the data directory "
                    "has room and may be written, and start the gateway again."
                ) from error

    async def bring(self) -> NoReturn:
        failures = 0
        while True:
            pause_s = LOOK_S
            try:
                await self._admit()
                await self._tables.bring()
                self._answered(self._unix_s(), self._reported_unix_s)
                if failures:
                    log.info("tables.brought_again", routes=self._tables.routes_generation)
                failures = 0
            except (UnavailableError, OSError) as error:
                failures += 1
                pause_s = min(LOOK_S, backoff_s(failures))
                if failures == 1:
                    log.warning("tables.not_brought", reason=str(error))
            await self._wake.wait(WAKE, pause_s)

    async def report(self) -> NoReturn:
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

    async def leave(self) -> None:
        """Once the workers have ended: nobody need wait for this host."""
        await self._reports.leave()

    async def _admit(self) -> None:
        """SetupError where schema, pepper or addresses do not fit; asked until the database has answered once."""
        if self._admitted:
            return
        await self._require_schema()
        async with self._database.begin() as tx:
            await self._tables.admit(tx)
        self._admitted = True
