"""Counts what gateways have spooled: each whole line once, in the transaction that notes how far it got."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from weighbridge.clock import Clock
from weighbridge.storage.database import Database
from weighbridge.usage import store
from weighbridge.usage.lines import Batch, read_lines
from weighbridge.usage.model import summed
from weighbridge.usage.spool import is_left, spools_in

log = structlog.get_logger()

LOOK_S = 2.0
BATCH_BYTES = 512 * 1024
SWEEP_S = 60.0
SWEEP_ROWS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class UsageKeep:
    """How long rows are kept; `requests_s` 0 keeps no single requests."""

    requests_s: float = 3600.0
    hours_s: float = 400 * 86400.0


class UsageReconciler:
    """Needs no lease: a spool's offset is the guard, so two of them count nothing twice.

    Those that do not sweep leave it to the control plane's how long rows are kept.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        directory: Path,
        keep: UsageKeep | None = None,
        *,
        sweeps: bool = True,
    ) -> None:
        self._database = database
        self._clock = clock
        self._directory = directory
        self._keep = keep or UsageKeep()
        self._sweeps = sweeps
        self._swept_s: float | None = None

    async def reconcile(self) -> float:
        """One pass over all spools of this machine."""
        for path in await asyncio.to_thread(spools_in, self._directory):
            try:
                await self._count(path)
            except FileNotFoundError:
                # A gateway had to make room, and counts the loss itself; or another has counted it to its end.
                await self._forget(path)
        if self._sweeps:
            await self._sweep()
        return LOOK_S

    async def _count(self, path: Path) -> None:
        async with self._database.begin() as tx:
            offset_bytes = await store.open_spool(tx, path.stem, self._clock.now())
        while True:
            # Asked before reading: what is then left of a file that nobody writes is a torn end.
            left = await asyncio.to_thread(is_left, path)
            batch = await asyncio.to_thread(_read, path, offset_bytes)
            if not batch.size_bytes:
                break
            await self._add(path.stem, offset_bytes, batch)
            offset_bytes += batch.size_bytes
        if left:
            # The file first: a row without a file is nothing, a file without its row would be counted again.
            await asyncio.to_thread(path.unlink)
            await self._forget(path)

    async def _forget(self, path: Path) -> None:
        async with self._database.begin() as tx:
            await store.forget_spool(tx, path.stem)

    async def _add(self, name: str, seen_bytes: int, batch: Batch) -> None:
        after_bytes = seen_bytes + batch.size_bytes
        sums = summed(batch.events)
        async with self._database.begin() as tx:
            await store.advance(
                tx, name, seen_bytes=seen_bytes, offset_bytes=after_bytes, now=self._clock.now()
            )
            await store.add_sums(tx, sums)
            if self._keep.requests_s:
                await store.add_requests(tx, batch.events)
            if batch.lost:
                await store.add_lost(tx, batch.lost)
        if batch.lost:
            log.warning("usage.lost", events=batch.lost, spool=name)

    async def _sweep(self) -> None:
        now_s = self._clock.monotonic()
        if self._swept_s is not None and now_s - self._swept_s < SWEEP_S:
            return
        now = self._clock.now()
        async with self._database.begin() as tx:
            gone = await store.delete_before(
                tx,
                requests=now - timedelta(seconds=self._keep.requests_s),
                hours=now - timedelta(seconds=self._keep.hours_s),
                rows_max=SWEEP_ROWS_MAX,
            )
        # With more to delete, go on at the next pass.
        self._swept_s = None if gone == SWEEP_ROWS_MAX else now_s


def _read(path: Path, offset_bytes: int) -> Batch:
    with path.open("rb") as file:
        file.seek(offset_bytes)
        content = file.read(BATCH_BYTES)
    if len(content) == BATCH_BYTES and b"\n" not in content:
        # No line is so long: one lost event, and on.
        return Batch((), 1, BATCH_BYTES)
    return read_lines(content)
