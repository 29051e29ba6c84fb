"""The ingest reconciler: claims weight syncs, runs them, and removes the bytes that nobody names any more."""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from weighbridge.clock import Clock
from weighbridge.control.loop import backoff_s
from weighbridge.errors import StaleError, UnavailableError
from weighbridge.ingest import store
from weighbridge.ingest.model import OpenSync, SyncLimits
from weighbridge.ingest.plan import choose
from weighbridge.ingest.pump.throttle import Throttles
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.sync import MANIFEST_LEASE_TTL_S, Sync, SyncParts
from weighbridge.ingest.upkeep import upkeep_of
from weighbridge.registry.model import SyncStatus
from weighbridge.settings import Settings
from weighbridge.storage import lease
from weighbridge.storage.database import Database
from weighbridge.storage.lease import Lease
from weighbridge.telemetry.histogram import Histogram
from weighbridge.weights.base import STAGING_GRACE_S, WeightStore

log = structlog.get_logger()

Result = TypeVar("Result")

IDLE_S = 5.0
BUSY_S = 1.0
COLLECT_PERIOD_S = 30.0
VERIFY_PERIOD_S = 600.0
VERDICT_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
CRASHES_MAX = 5
"""A sync that failed this often in a way nobody foresaw will not do better: it is given up (W5)."""
CLAIMS_MAX = 100
"""A sync that was claimed this often without an end takes its process down: it is given up (W5)."""


def limits_of(settings: Settings) -> SyncLimits:
    return SyncLimits(
        bytes_max=settings.sync_bytes_max,
        part_bytes=settings.sync_part_bytes,
        parts_parallel=settings.sync_parts_parallel,
        stall_s=settings.sync_stall_s,
        total_s=settings.sync_total_s,
        access_retry_s=settings.sync_access_retry_s,
        disk_wait_s=settings.sync_disk_wait_s,
        disk_free_min_share=settings.disk_free_min_share,
    )


class IngestReconciler:
    """One per process. `reconcile` starts syncs as tasks this object owns; `close` ends them, to be resumed.

    `holder` names this process in leases; two live processes must never share it. A name that outlives a
    crash (of whoever holds the data directory's lock) lets a restart go on at once; the default waits
    until the crashed process's leases run out.
    """

    def __init__(
        self,
        database: Database,
        store: WeightStore,
        s3: S3Access,
        clock: Clock,
        settings: Settings,
        *,
        holder: str | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._limits = limits_of(settings)
        self._syncs_max = settings.syncs_parallel
        self._holder = holder or clock.new_uuid()
        self._wake = wake
        self.verdicts = Histogram(VERDICT_BOUNDS_S)
        self._threads = ThreadPoolExecutor(self._syncs_max + 2, thread_name_prefix="ingest")
        self._parts = SyncParts(
            database,
            store,
            s3,
            clock.monotonic,
            self._limits,
            self._threads,
            Throttles(settings.sync_org_bytes_per_s, clock.monotonic),
            self.verdicts,
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self._crashes: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        self._first_seen: dict[str, float] = {}
        self._collected_at: float | None = None
        self._upkeep = upkeep_of(
            database,
            store,
            verify_days=settings.store_verify_days,
            bytes_per_s=settings.store_verify_bytes_per_s,
        )
        self._verifying: asyncio.Task[None] | None = None
        self._verified_at: float | None = None
        self._asked_s = 0.0

    async def reconcile(self) -> float:
        """One pass: end what is cancelled, start what may start, collect what is unused."""
        now = self._clock.monotonic()
        self._tasks = {key: task for key, task in self._tasks.items() if not task.done()}
        async with self._database.begin() as tx:
            open_syncs = await store.open_syncs(tx, self._holder)
        self._remember({sync.version_id for sync in open_syncs}, now)
        for sync in open_syncs:
            # A running sync sees its cancellation itself.
            if sync.held or sync.version_id in self._tasks:
                continue
            if verdict := self._hopeless(sync, now):
                await self._end(sync, *verdict)
        ready = [s for s in open_syncs if self._not_before.get(s.version_id, now) <= now]
        for version_id in choose(ready, frozenset(self._tasks), self._syncs_max):
            await self._start(version_id)
        if self._collected_at is None or now - self._collected_at >= COLLECT_PERIOD_S:
            self._collected_at = now
            await self.collect()
        self._verify(now)
        return BUSY_S if self._tasks or self._not_before else IDLE_S

    async def collect(self) -> None:
        """Remove staging of ended syncs, versions that were deleted, and blobs no manifest names (W8)."""
        owners = await self._in_thread(self._store.staging_owners)
        async with self._database.begin() as tx:
            live = {sync.version_id for sync in await store.open_syncs(tx, self._holder)}
        if len(live) < store.OPEN_MAX:
            await self._in_thread(partial(self._store.sweep_staging, live, among=owners))
        published = await self._in_thread(lambda: self._store.published() | self._store.withdrawn())
        async with self._database.begin() as tx:
            unused = await store.unused_manifests(tx, sorted(published))
        for digest, deleted in unused.items():
            # Without a row it may be an architecture's that is being registered at this moment.
            if (
                deleted
                or await self._in_thread(partial(self._store.age_s, digest)) > STAGING_GRACE_S
            ):
                await self._delete(digest)
        await self._upkeep.collect()

    async def idle(self) -> None:
        """Wait until the syncs that run now have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def close(self) -> None:
        """Stop all syncs and wait for their threads; another process, or the next start, goes on with them."""
        self._upkeep.stop()
        for task in self._tasks.values():
            task.cancel()
        verifying = () if self._verifying is None else (self._verifying,)
        if running := [*self._tasks.values(), *verifying]:
            await asyncio.wait(running)
        await asyncio.to_thread(self._threads.shutdown)

    def _verify(self, now: float) -> None:
        """Begin to hash again what is due, beside everything else, now and then or when an operator asks."""
        if self._verifying is not None and not self._verifying.done():
            return
        asked_s = self._store.verifications.asked_s()
        due = self._verified_at is None or now - self._verified_at >= VERIFY_PERIOD_S
        if not due and asked_s == self._asked_s:
            return
        self._verified_at, self._asked_s = now, asked_s
        self._verifying = asyncio.create_task(self._run_verification())

    async def _run_verification(self) -> None:
        try:
            await self._in_thread(self._upkeep.verify_due)
        except Exception:
            log.exception("store.verification_failed")

    def _remember(self, open_ids: set[str], now: float) -> None:
        for version_id in open_ids:
            self._first_seen.setdefault(version_id, now)
        for memory in (self._first_seen, self._failures, self._not_before, self._crashes):
            for version_id in memory.keys() - open_ids:
                del memory[version_id]

    def _hopeless(self, sync: OpenSync, now: float) -> tuple[SyncStatus, str, str] | None:
        if sync.cancelled:
            return (
                SyncStatus.CANCELLED,
                "CANCELLED",
                "The sync was cancelled, or its version deleted.",
            )
        if sync.claim_epoch >= CLAIMS_MAX or self._crashes[sync.version_id] >= CRASHES_MAX:
            message = (
                f"The sync was started {sync.claim_epoch} times and never ended. Tell the operator."
            )
            return SyncStatus.ERROR, "INTERNAL", message
        waited_s = now - self._first_seen[sync.version_id]
        if sync.status is SyncStatus.QUEUED and waited_s > self._limits.total_s:
            message = f"The sync waited {waited_s:.0f} s for its turn. Upload again later."
            return SyncStatus.ERROR, "QUEUE_TIMEOUT", message
        return None

    async def _end(self, sync: OpenSync, status: SyncStatus, code: str, message: str) -> None:
        async with self._database.begin() as tx:
            held = await store.claim(tx, sync.version_id, self._holder)
            if held is None:
                return
            await store.finish(
                tx, held, sync.version_id, status, error_code=code, error_message=message
            )
        log.info("sync.ended", version_id=sync.version_id, status=status.value, code=code)

    async def _start(self, version_id: str) -> None:
        async with self._database.begin() as tx:
            held = await store.claim(tx, version_id, self._holder)
            if held is None:
                return
            order = await store.order(tx, version_id)
        sync = Sync(self._parts, held, order)
        self._tasks[version_id] = asyncio.create_task(self._run(sync, held, version_id))

    async def _run(self, sync: Sync, held: Lease, version_id: str) -> None:
        try:
            await sync.run()
        except StaleError as error:
            log.info("sync.lost", version_id=version_id, reason=error.message)
        except UnavailableError as error:
            log.warning("sync.unavailable", version_id=version_id, reason=error.message)
        except asyncio.CancelledError:
            await self._release(held)
            raise
        except Exception:
            log.exception("sync.crashed", version_id=version_id)
            self._crashes[version_id] += 1
        else:
            self._failures.pop(version_id, None)
            if self._wake is not None:
                self._wake()
            return
        # The next pass is the retry; a claim that is still ours is given back for it.
        self._failures[version_id] = self._failures.get(version_id, 0) + 1
        pause_s = backoff_s(self._failures[version_id])
        self._not_before[version_id] = self._clock.monotonic() + pause_s
        await self._release(held)

    async def _release(self, held: Lease) -> None:
        try:
            async with self._database.begin() as tx:
                await lease.release(tx, held)
        except UnavailableError as error:
            log.info("sync.lease_left_to_expire", name=held.name, reason=error.message)

    async def _delete(self, digest: str) -> None:
        """Check again under the manifest's lease, which a publisher of the same bytes would hold."""
        name = store.manifest_lease_name(digest)
        async with self._database.begin() as tx:
            held = await lease.acquire(
                tx, name, f"{self._holder}/collect", ttl_s=MANIFEST_LEASE_TTL_S
            )
            if held is None:
                return
            if digest not in await store.unused_manifests(tx, [digest]):
                await lease.release(tx, held)
                return
        began = self._clock.monotonic()
        leased = self._upkeep.leased()
        await self._in_thread(partial(self._store.delete_version, digest, leased=leased))
        log.info(
            "store.version_deleted", digest=digest, took_s=round(self._clock.monotonic() - began, 1)
        )
        await self._release(held)

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
