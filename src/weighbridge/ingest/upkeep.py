"""Upkeep of the weight store: its usage, collection under the leases of syncs, scheduled re-hashing (W8, W11)."""

import asyncio
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass

import structlog

from weighbridge.ingest import store as rows
from weighbridge.storage.database import Database
from weighbridge.weights.base import WeightStore
from weighbridge.weights.disk.collection import Leased
from weighbridge.weights.disk.quarantine import Damage
from weighbridge.weights.disk.verification import Due, hash_at_rate

log = structlog.get_logger()

QUERY_TIMEOUT_S = 60.0
VERIFY_LOCK = "verify"
UNREADABLE = "unreadable"
"""Stands for the digest of a blob that the disk does not give back."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The weight store at a glance; `unused` is what a collection would remove now, `due` what is to be verified."""

    free_bytes: int
    total_bytes: int
    blobs: int
    blob_bytes: int
    versions: int
    unused_blobs: int
    unused_bytes: int
    due_blobs: int
    due_bytes: int
    damages: Sequence[Damage]


class StopUpkeepError(Exception):
    """The process ends; the next one goes on with what is still due."""


class StoreUpkeep:
    """Everything here is repeatable, and safe beside other control processes on the same store."""

    def __init__(
        self, database: Database, store: WeightStore, *, period_s: float, bytes_per_s: float
    ) -> None:
        self._database = database
        self._store = store
        self._period_s = period_s
        self._bytes_per_s = bytes_per_s
        self._stopped = threading.Event()

    async def usage(self) -> Usage:
        leased = await self._leases()
        return await asyncio.to_thread(self._usage, lambda: leased)

    async def collect(self) -> int:
        """Remove the blobs that nobody needs; returns how many."""
        leased = self.leased()
        return await asyncio.to_thread(lambda: self._store.collect_blobs(leased=leased))

    def leased(self) -> Leased:
        """What syncs count on, asked anew at each call; call it from a thread beside the running loop."""
        loop = asyncio.get_running_loop()

        def ask() -> Collection[str]:
            return asyncio.run_coroutine_threadsafe(self._leases(), loop).result(QUERY_TIMEOUT_S)

        return ask

    def verify_due(self) -> None:
        """Hash what is due, at the rate allowed; a blob that is not what its name says is quarantined. Blocking."""
        lock = self._store.locks.attempt(VERIFY_LOCK, kind="verify")
        if lock is None:
            return
        try:
            for due in self._due():
                self._verify(due)
        except StopUpkeepError:
            pass
        finally:
            lock.release()

    def stop(self) -> None:
        self._stopped.set()

    def _verify(self, due: Due) -> None:
        try:
            with closing(self._store.open_blob(due.digest)) as content:
                found = hash_at_rate(content, self._bytes_per_s, self._pause)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("store.blob_unreadable", digest=due.digest, reason=str(error))
            found = UNREADABLE
        if found == due.digest:
            self._store.verifications.note(due.digest)
            log.debug("store.blob_verified", digest=due.digest, bytes=due.size_bytes)
            return
        damage = self._store.take_away(due.digest, found)
        self._store.verifications.forget(due.digest)
        log.error(
            "store.blob_quarantined",
            digest=due.digest,
            found_digest=found,
            versions=list(damage.versions),
        )

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise StopUpkeepError

    def _due(self) -> list[Due]:
        verifications = self._store.verifications
        before = max(time.time() - self._period_s, verifications.asked_s())
        return verifications.due(self._store.blobs(), before=before)

    def _usage(self, leased: Leased) -> Usage:
        store = self._store
        sizes = [blob.size_bytes for blob in store.blobs()]
        unused = [blob.size_bytes for blob in store.unused_blobs(leased=leased)]
        due = self._due()
        return Usage(
            free_bytes=store.free_bytes(),
            total_bytes=store.total_bytes(),
            blobs=len(sizes),
            blob_bytes=sum(sizes),
            versions=len(store.published()),
            unused_blobs=len(unused),
            unused_bytes=sum(unused),
            due_blobs=len(due),
            due_bytes=sum(item.size_bytes for item in due),
            damages=store.damages(),
        )

    async def _leases(self) -> Collection[str]:
        async with self._database.begin() as tx:
            return await rows.leased_digests(tx)


def upkeep_of(
    database: Database, store: WeightStore, *, verify_days: float, bytes_per_s: int
) -> StoreUpkeep:
    return StoreUpkeep(
        database, store, period_s=verify_days * 86_400.0, bytes_per_s=float(bytes_per_s)
    )
