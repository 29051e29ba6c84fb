"""Wake-ups between processes that share a database: a hint, by LISTEN/NOTIFY; the loops' timers find what is lost."""

import asyncio
from collections.abc import Iterable
from typing import NoReturn

import structlog

from weighbridge.control.loop import backoff_s
from weighbridge.control.wake import Wake
from weighbridge.errors import UnavailableError
from weighbridge.storage.database import Database

log = structlog.get_logger()

CHANNEL = "weighbridge_wake"


class SharedWake:
    """Call it as a Wake: the reconciler of that name looks now, in this process and in the others.

    `sender` names this process alone. `announce` and `listen` run until they are cancelled.
    """

    def __init__(self, database: Database, wake: Wake, sender: str) -> None:
        self._database = database
        self._wake = wake
        self._sender = sender
        self._unsent: set[str] = set()
        self._some = asyncio.Event()

    def __call__(self, name: str) -> None:
        self._wake(name)
        self._unsent.add(name)
        self._some.set()

    async def announce(self) -> NoReturn:
        """Tell the others. What cannot be told is dropped, for then nobody could read the rows either."""
        while True:
            await self._some.wait()
            self._some.clear()
            names, self._unsent = sorted(self._unsent), set()
            try:
                await self.tell(names)
            except UnavailableError as error:
                log.warning("wake.not_sent", names=names, reason=error.message)

    async def tell(self, names: Iterable[str]) -> None:
        """Only the others, and now; UnavailableError where it cannot be done."""
        await self._database.notify(CHANNEL, [f"{self._sender} {name}" for name in names])

    async def listen(self) -> NoReturn:
        """Pass on what the others tell; after each loss of the connection everybody looks once."""
        failures = 0
        while True:
            try:
                async for payload in self._database.notifications(CHANNEL):
                    failures = 0
                    self._hear(payload)
            except UnavailableError as error:
                failures += 1
                log.warning("wake.deaf", reason=error.message)
            await asyncio.sleep(backoff_s(max(1, failures)))

    def _hear(self, payload: str) -> None:
        if not payload:
            self._wake.everybody()
            return
        sender, _, name = payload.partition(" ")
        if sender != self._sender:
            self._wake.known(name)
