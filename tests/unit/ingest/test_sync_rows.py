"""What two transactions of one sync do to each other's rows."""

import asyncio

from sqlalchemy import select, text, update

from toys.rows import furnish
from weighbridge.ingest import store
from weighbridge.registry.model import SyncStatus
from weighbridge.storage import lease
from weighbridge.storage.database import Database, Transaction
from weighbridge.storage.tables import model_versions

LIMIT_S = 30.0
LOOK_S = 0.02


async def _until_somebody_waits_for(tx: Transaction, database: Database) -> None:
    own = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    asked = text("SELECT count(*) FROM pg_stat_activity WHERE :own = ANY (pg_blocking_pids(pid))")
    while True:
        async with database.begin() as other:
            if (await other.execute(asked, {"own": own})).scalar_one():
                return
        await asyncio.sleep(LOOK_S)


async def test_a_sync_that_ends_while_its_progress_is_written_does_both(database: Database) -> None:
    async with database.begin() as tx:
        await furnish(tx)
        await tx.execute(
            update(model_versions).where(model_versions.c.id == "v1").values(status="queued")
        )
        held = await store.claim(tx, "v1", "here")
    assert held is not None

    async def finish() -> None:
        async with database.begin() as ending:
            await store.finish(ending, held, "v1", SyncStatus.DONE)

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks, database.begin() as writing:
        await lease.require(writing, held)
        ended = tasks.create_task(finish())
        await _until_somebody_waits_for(writing, database)
        await store.record_progress(
            writing, held, "v1", step="commit", bytes_done=7, files_done=1, spent_s=2.0,
            bytes_per_s=None, retries_more=1,
        )  # fmt: skip
        assert not ended.done()
    async with database.begin() as tx:
        row = (await tx.execute(select(model_versions).where(model_versions.c.id == "v1"))).one()
    assert (row.status, row.sync_spent_s, row.retries) == ("done", 2.0, 1)
