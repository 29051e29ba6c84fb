"""Who waits for whose rows: in memory as in PostgreSQL."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from simulation.memory.database import Executor
from simulation.memory.store import BlockedError, Memory
from simulation.memory.tables import SCHEMAS
from toys.rows import furnish, waiting
from weighbridge.receipts import store as receipt_store
from weighbridge.rollouts import store as rollout_store
from weighbridge.storage.database import Database
from weighbridge.storage.history_tables import receipts
from weighbridge.storage.tables import endpoints, metadata

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TAKEN = select(endpoints).where(endpoints.c.id == "chat").with_for_update()
CHANGE = update(receipts).values(omitted=receipts.c.omitted + 1)
"""Of the receipt of a deployment to that endpoint; which endpoint stays as it is."""


async def _memory(database: Database) -> Memory:
    """The same rows in both."""
    memory = Memory(lambda: NOON, lambda tx, changes: None)
    async with database.begin() as tx:
        await furnish(tx)
        await rollout_store.add(tx, waiting("d1", 1), 1)
        await receipt_store.begin(tx, "d1", "chat")
        for table in metadata.sorted_tables:
            schema = SCHEMAS.get(table.name)
            if schema is not None:
                rows = [dict(row) for row in (await tx.execute(select(table))).mappings()]
                memory.tables[table.name] = {schema.key_of(row): row for row in rows}
    return memory


async def test_what_a_row_names_is_asked_after_again_when_one_transaction_changes_it_twice(
    database: Database,
) -> None:
    memory = await _memory(database)
    here = Executor()
    holder, writer = memory.begin(), memory.begin()
    async with database.begin() as taken, database.begin() as tx:
        await taken.execute(TAKEN)
        here.execute(holder, TAKEN, None)
        await tx.execute(text("SET LOCAL lock_timeout = '100ms'"))
        await tx.execute(CHANGE)
        here.execute(writer, CHANGE, None)
        with pytest.raises(OperationalError, match="lock timeout"):
            await tx.execute(CHANGE)
        with pytest.raises(BlockedError):
            here.execute(writer, CHANGE, None)
