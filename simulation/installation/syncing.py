"""Weight syncs without bytes: the real claims, leases and records, with a moment of work in between."""

from simulation.installation.site import Site
from simulation.memory.database import SimDatabase
from weighbridge.errors import StaleError
from weighbridge.ingest import store
from weighbridge.registry.model import SyncStatus

IDLE_S = 5.0


class Syncer:
    """Takes one open sync after the other: claims it, works on it, records manifest and end."""

    def __init__(self, site: Site, database: SimDatabase, holder: str) -> None:
        self._site = site
        self._database = database
        self._holder = holder

    async def reconcile(self) -> float:
        async with self._database.begin() as tx:
            open_syncs = await store.open_syncs(tx, self._holder)
        for sync in open_syncs:
            if not sync.held:
                await self._sync(sync.version_id)
                return 0.0
        return IDLE_S

    async def _sync(self, version_id: str) -> None:
        async with self._database.begin() as tx:
            held = await store.claim(tx, version_id, self._holder)
        if held is None:
            return
        await self._site.loop.pause(self._site.chance.uniform(0.1, 2.0))
        digest = self._site.bytes_of(version_id)
        status = SyncStatus.ERROR if digest is None else SyncStatus.DONE
        try:
            if digest is not None:
                async with self._database.begin() as tx:
                    await store.record_manifest(tx, held, version_id, digest)
                self._site.publish(digest)
            async with self._database.begin() as tx:
                await store.finish(tx, held, version_id, status, error_code=_code(status))
        except StaleError:
            # Cancelled, or another's by now: what is cancelled is ended under the same claim.
            async with self._database.begin() as tx:
                await store.finish(
                    tx, held, version_id, SyncStatus.CANCELLED, error_code="CANCELLED"
                )


def _code(status: SyncStatus) -> str | None:
    return "NO_SUCH_BUCKET" if status is SyncStatus.ERROR else None
