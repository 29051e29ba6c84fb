"""The snapshot files between control plane and gateway, as values that are replaced in one moment."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from simulation.scheduler import SimLoop
from simulation.steps import Steps
from weighbridge.replicas.routes import RoutesPublisher
from weighbridge.routing.files import SnapshotFile
from weighbridge.routing.model import KeyTable, RouteTable

Table = TypeVar("Table", RouteTable, KeyTable)


class File(Generic[Table]):
    """What a path holds; whoever watches it hears of a new content."""

    def __init__(self, written: Callable[[Table], None]) -> None:
        self.content: Table | None = None
        self.disk_full = False
        self._written: Callable[[Table], None] = written

    def put(self, table: Table) -> None:
        self.content = table
        self._written(table)


class SimSnapshot(SnapshotFile[Table]):
    """A process's view of a file; reading and writing takes a moment in which it may be killed."""

    def __init__(self, file: File[Table], kind: type[Table], loop: SimLoop, steps: Steps) -> None:
        super().__init__(Path("/simulated"), kind)  # type: ignore[arg-type]  # both are of Table
        self._file: File[Table] = file
        self._loop = loop
        self._steps = steps

    async def read(self) -> Table | None:
        await self._loop.pause(0.0005)
        return self._file.content

    async def write(self, table: Table) -> None:
        """OSError where the disk is full."""
        if self._file.disk_full:
            raise OSError(errno.ENOSPC, "no space left on device")
        # fsync and rename go on in a thread of their own, so the file may change although its writer has died.
        done = self._loop.create_future()
        step = self._steps.begin(f"write {type(table).__name__}")
        if step is not None:
            self._loop.later(0.004, self._finish, table, done)
        await done
        if step is not None:
            self._steps.end(step)

    def _finish(self, table: Table, done: "asyncio.Future[object]") -> None:
        self._file.put(table)
        if not done.done():
            done.set_result(None)


class SimPublisher(RoutesPublisher):
    """The publisher on simulated files."""

    def keep_in(self, routes: SimSnapshot[RouteTable], keys: SimSnapshot[KeyTable]) -> None:
        self._routes = routes
        self._keys = keys
