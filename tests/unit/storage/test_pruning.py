"""Rows that nobody needs any more go, and none that somebody does."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, update

from toys.rows import furnish, waiting
from toys.world import replica
from weighbridge.replicas import store
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts import store as rollout_store
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.storage import idempotency, lease
from weighbridge.storage.database import Database, Transaction
from weighbridge.storage.pruning import ENDED_REPLICAS_KEPT_S, prune
from weighbridge.storage.tables import (
    REPLICA_FINAL,
    ROLLOUT_FINAL,
    deployments,
    idempotency_keys,
    leases,
    model_versions,
    replicas,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLD = NOW - timedelta(seconds=ENDED_REPLICAS_KEPT_S + 1)
S = ReplicaState


def test_the_schema_spells_the_final_words_as_the_domain_does() -> None:
    assert set(REPLICA_FINAL) == {s.value for s in ReplicaState if s.final}
    assert set(ROLLOUT_FINAL) == {s.value for s in RolloutStatus if s.final}


async def furnished(tx: Transaction) -> None:
    await furnish(tx)
    await rollout_store.add(tx, waiting("d1", 1), 1)
    await tx.execute(update(deployments).values(status="done"))


async def left(tx: Transaction) -> set[str]:
    return set((await tx.execute(select(replicas.c.id))).scalars())


async def test_replicas_that_ended_long_ago_go_and_the_others_stay(database: Database) -> None:
    async with database.begin() as tx:
        await furnished(tx)
        rows = [replica(f"old-{s}", state=s, slot=i, state_since=OLD) for i, s in enumerate(S)]
        rows += [replica(f"new-{s}", state=s, slot=99, state_since=NOW) for s in S if s.final]
        await store.add(tx, rows)
        assert (await prune(tx, NOW))["replicas"] == 3
        kept = {f"old-{s}" for s in S if not s.final} | {f"new-{s}" for s in S if s.final}
        assert await left(tx) == kept
        assert (await prune(tx, NOW))["replicas"] == 0


async def test_a_failure_that_a_rollout_has_yet_to_count_stays(database: Database) -> None:
    async with database.begin() as tx:
        await furnished(tx)
        await tx.execute(update(deployments).values(status="in_progress"))
        old = {"state": S.FAILED, "state_since": OLD}
        await store.add(
            tx, [replica("counted", failure_counted=True, **old), replica("uncounted", **old)]
        )
        await prune(tx, NOW)
        assert await left(tx) == {"uncounted"}


@pytest.mark.parametrize(
    ("status", "stays"), [("in_progress", True), ("queued", True), ("done", False)]
)
async def test_the_lease_of_a_sync_stays_until_the_sync_has_ended(
    database: Database, status: str, *, stays: bool
) -> None:
    async with database.begin() as tx:
        await furnish(tx)
        await tx.execute(update(model_versions).values(status=status))
        held = await lease.acquire(tx, "sync:v1", "a")
        assert held is not None
        await lease.release(tx, held)
        await prune(tx, NOW)
        names = set((await tx.execute(select(leases.c.name))).scalars())
    assert names == ({"sync:v1"} if stays else set())


async def test_leases_that_guard_something_lasting_keep_their_epochs(database: Database) -> None:
    async with database.begin() as tx:
        for name, ttl_s in (("controller", -1e7), ("manifest:old", -1e7), ("manifest:new", 60)):
            await lease.acquire(tx, name, "a", ttl_s=ttl_s)
        assert (await prune(tx, NOW))["leases"] == 1
        names = set((await tx.execute(select(leases.c.name))).scalars())
    assert names == {"controller", "manifest:new"}


async def test_answers_go_when_their_key_is_as_good_as_new(database: Database) -> None:
    async with database.begin() as tx:
        await furnish(tx)
        for key, age_s in (("old", idempotency.KEPT_S + 1), ("new", 1.0)):
            await tx.execute(
                insert(idempotency_keys).values(
                    org_id="org_1",
                    key=key,
                    request_digest=b"d",
                    answer="{}",
                    created_at=NOW - timedelta(seconds=age_s),
                )
            )
        await prune(tx, NOW)
        assert (await tx.execute(select(idempotency_keys.c.key))).scalars().all() == ["new"]
