"""Sealing a receipt on the real database: it waits for no rollout of the endpoint, which may wait for it."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from toys.rows import furnish, waiting
from weighbridge.clock import Clock
from weighbridge.receipts import service
from weighbridge.receipts.reconciler import ReceiptReconciler, SealTimes
from weighbridge.rollouts import store as rollout_store
from weighbridge.rollouts.telling import submitted
from weighbridge.storage import lease
from weighbridge.storage.counters import next_value
from weighbridge.storage.database import Database, Transaction
from weighbridge.storage.tables import deployments

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def _ended(tx: Transaction) -> None:
    """A deployment that ended a minute ago, its receipt still open."""
    await furnish(tx)
    one = waiting("d1", 1)
    await rollout_store.add(tx, one, await next_value(tx, "deployments"))
    await service.tell(tx, one.id, one.endpoint_id, [submitted(one, asked_by="k1")])
    ended = {"status": "cancelled", "finished_at": NOON - timedelta(minutes=1)}
    await tx.execute(update(deployments).values(**ended))


async def test_a_receipt_is_sealed_while_a_step_of_a_rollout_has_its_endpoint(
    database: Database,
) -> None:
    """The step may be waiting for the receipt already: each would wait for the other."""
    async with database.begin() as tx:
        await _ended(tx)
        held = await lease.acquire(tx, "controller", "here")
    assert held is not None
    reconciler = ReceiptReconciler(
        database, Clock(now=lambda: NOON), lambda: held, times=SealTimes()
    )
    async with database.begin() as step:
        await rollout_store.lock_endpoint(step, "chat")
        await reconciler.reconcile()
        assert await service.sealed_head(step, "d1") is not None
