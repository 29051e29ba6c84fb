"""Upkeep of an endpoint on the real database: what a failure of long ago may no longer cost."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from toys.gateway import ToyGateway
from toys.machine import Machine
from toys.node import ToyEngine, ToyRuntime, ToyStore
from toys.rows import NOW, furnish, waiting
from toys.world import replica, serving
from weighbridge.clock import Clock
from weighbridge.replicas import store
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts import store as rollout_store
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.storage.tables import endpoints


@pytest.fixture
async def machine(database: Database, tmp_path: Path) -> Machine:
    """The endpoint `chat` wants two replicas of its base and has one."""
    settings = Settings(data_dir=tmp_path)
    runtime = ToyRuntime()
    made = Machine(
        database,
        settings,
        runtime,
        ToyEngine(runtime),
        ToyStore(),
        ToyGateway(settings),
        clock=Clock(now=lambda: NOW),
    )
    async with database.begin() as tx:
        await furnish(tx)
        base = replace(waiting("d1", 1), status=RolloutStatus.DONE)
        await rollout_store.add(tx, base, 1)
        await tx.execute(update(endpoints).values(base_deployment_id="d1"))
        await store.add(tx, [serving("a", NOW)])
    await made.lead("control")
    return made


async def fail(machine: Machine, name: str, ago: timedelta) -> None:
    ended = replica(name, state=ReplicaState.FAILED, state_since=NOW - ago)
    async with machine.database.begin() as tx:
        await store.add(tx, [ended])


async def test_failures_of_long_ago_do_not_slow_the_next_replacement_down(
    machine: Machine,
) -> None:
    for number in range(5):
        await fail(machine, f"old-{number}", timedelta(days=number + 1))
        await machine.rollouts().reconcile()
        for pending in await machine.rows(ReplicaState.PENDING):
            async with machine.database.begin() as tx:
                leaving = replace(pending, state=ReplicaState.STOPPING)
                await store.save(tx, pending, leaving)
                leaving = replace(leaving, revision=pending.revision + 1)
                # Until then it holds its slot, and nothing replaces it.
                await store.save(tx, leaving, replace(leaving, state=ReplicaState.STOPPED))
    await fail(machine, "new", timedelta(seconds=2))
    await machine.rollouts().reconcile()
    assert len(await machine.rows(ReplicaState.PENDING)) == 1


async def test_a_failure_during_upkeep_is_accounted_for_and_still_costs_its_pause(
    machine: Machine,
) -> None:
    await fail(machine, "new", timedelta(seconds=0))
    await machine.rollouts().reconcile()
    assert await machine.rows(ReplicaState.PENDING) == []
    (ended,) = await machine.rows(ReplicaState.FAILED)
    assert ended.failure_counted
