"""What each pass asks is found by indexes, so that it costs what lives, not all that ever was."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, text

from weighbridge.replicas import routes_store
from weighbridge.replicas import store as replica_store
from weighbridge.rollouts import store as rollout_store
from weighbridge.storage.database import Database, Transaction

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Ask = Callable[[Transaction], Awaitable[object]]
CASES: dict[str, tuple[Ask, str]] = {
    "endpoints with something open": (rollout_store.restless, "ix_deployments_open"),
    "slots": (replica_store.slots_taken, "uq_replicas_slot"),
    "last starts": (routes_store.endpoints, "Backward using ix_replicas_endpoint"),
    "a page of an org": (
        lambda tx: rollout_store.newest_of_org(
            tx, "o", endpoint_id=None, statuses=(), before=None, limit=20
        ),
        "ix_deployments_org",
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_statement_that_is_asked_again_and_again_uses_its_index(
    database: Database, name: str
) -> None:
    ask, index = CASES[name]
    seen: list[tuple[str, object]] = []

    def note(_connection, _cursor, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    engine = database._engine.sync_engine
    async with database.begin() as tx:
        # Tables of tests are empty, where reading all of it is cheapest.
        await tx.execute(text("SET LOCAL enable_seqscan = off"))
        await tx.execute(text("SET LOCAL enable_bitmapscan = off"))
        event.listen(engine, "before_cursor_execute", note)
        await ask(tx)
        event.remove(engine, "before_cursor_execute", note)
        ((statement, parameters),) = seen
        rows = await tx.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        plan = "\n".join(rows.scalars())
    assert index in plan
