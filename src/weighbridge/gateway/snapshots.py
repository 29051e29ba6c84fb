"""Keep a worker's tables fresh: watch both snapshot files, swap, then acknowledge (G5, G8)."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from weighbridge.gateway.table import CurrentTables, Tables
from weighbridge.routing.acks import WorkerColumn
from weighbridge.routing.files import read_snapshot
from weighbridge.routing.model import KeyTable, RouteTable, Table
from weighbridge.routing.notices import told_of_new_files

log = structlog.get_logger()

POLL_S = 0.02
"""Where the kernel tells nothing."""
LOOK_S = 0.25
"""Where it does: should a change come without its word, this is how late it is seen."""

_Signature = tuple[int, int, int]


def _signature(path: Path) -> _Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


@dataclass(slots=True)
class Snapshots:
    """Reads `routes.json` and `keys.json` when they change; a bad one is logged once and the old one kept."""

    routes_file: Path
    keys_file: Path
    current: CurrentTables
    column: WorkerColumn
    routes_loaded: bool = False
    keys_loaded: bool = False
    _seen: dict[Path, _Signature | None] = field(default_factory=dict)

    @property
    def loaded(self) -> bool:
        return self.routes_loaded and self.keys_loaded

    def refresh(self) -> None:
        """Look once. Nothing is awaited between swap and acknowledgement, so a request that was routed by the
        old table is already counted when the new generation shows.
        """
        before = self.current.tables
        tables = before
        if self._changed(self.routes_file):
            tables = self._with_routes(tables)
        if self._changed(self.keys_file):
            tables = self._with_keys(tables)
        if tables is not before:
            self.current.tables = tables
            self.column.acknowledge(tables.routes_generation, tables.keys_generation)
            log.info("tables.applied", routes=tables.routes_generation, keys=tables.keys_generation)

    async def watch(self) -> None:
        """Refresh until cancelled."""
        with told_of_new_files(self.routes_file.parent, self.refresh) as told:
            while True:
                await asyncio.sleep(LOOK_S if told else POLL_S)
                self.refresh()

    def _changed(self, path: Path) -> bool:
        signature = _signature(path)
        if signature is None or signature == self._seen.get(path):
            return False
        self._seen[path] = signature
        return True

    def _with_routes(self, tables: Tables) -> Tables:
        table = _read(self.routes_file, RouteTable)
        if table is None or _older(self.routes_file, table.generation, tables.routes_generation):
            return tables
        self.routes_loaded = True
        return tables.with_routes(table)

    def _with_keys(self, tables: Tables) -> Tables:
        table = _read(self.keys_file, KeyTable)
        if table is None or _older(self.keys_file, table.generation, tables.keys_generation):
            return tables
        try:
            tables = tables.with_keys(table)
        except ValueError as error:
            _log_bad(self.keys_file, error)
        else:
            self.keys_loaded = True
        return tables


def _read(path: Path, kind: type[Table]) -> Table | None:
    try:
        return read_snapshot(path, kind)
    except (msgspec.MsgspecError, OSError, ValueError) as error:
        _log_bad(path, error)
        return None


def _log_bad(path: Path, error: Exception) -> None:
    log.error("snapshot.bad", file=path.name, reason=str(error), next_step="the old one is kept")


def _older(path: Path, generation: int, applied: int) -> bool:
    if generation >= applied:
        return False
    # Only a writer that has lost its lease publishes an older table; following it would route to what is gone.
    log.error("snapshot.older", file=path.name, generation=generation, applied=applied)
    return True
