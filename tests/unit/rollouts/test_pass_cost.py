"""What a pass over many endpoints asks of the database: more endpoints, but each thing about all of them once."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event, insert, select

from toys.gateway import ToyGateway
from toys.machine import Machine
from toys.node import ToyEngine, ToyRuntime, ToyStore
from toys.rows import NOW, furnish, waiting
from weighbridge.clock import Clock
from weighbridge.errors import StaleError
from weighbridge.rollouts import store as rollout_store
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.storage.tables import endpoints, replicas

ENDPOINTS = 8


@pytest.fixture
async def machine(database: Database, tmp_path: Path) -> Machine:
    """Endpoints beside each other that have lost every replica of their base."""
    settings, runtime = Settings(data_dir=tmp_path), ToyRuntime()
    parts = (runtime, ToyEngine(runtime), ToyStore(), ToyGateway(settings))
    made = Machine(database, settings, *parts, clock=Clock(now=lambda: NOW))
    async with database.begin() as tx:
        await furnish(tx)
        shape = (await tx.execute(select(endpoints))).mappings().one()
        for number in range(ENDPOINTS):
            name, base = f"c{number}", f"d{number}"
            row = {**shape, "id": name, "base_deployment_id": base}
            await tx.execute(insert(endpoints).values(row))
            done = replace(waiting(base, 1), endpoint_id=name, status=RolloutStatus.DONE)
            await rollout_store.add(tx, done, number + 1)
    await made.lead("control")
    return made


async def test_slots_are_asked_for_once_in_a_pass_however_many_endpoints_start_replicas(
    machine: Machine,
) -> None:
    asked: list[str] = []

    def note(_connection, _cursor, statement: str, *_: object) -> None:
        if statement.startswith("SELECT replicas.slot"):
            asked.append(statement)

    event.listen(machine.database._engine.sync_engine, "before_cursor_execute", note)
    await machine.rollouts().reconcile()
    assert len(asked) == 1
    async with machine.database.begin() as tx:
        given = (await tx.execute(select(replicas.c.slot))).scalars().all()
    assert sorted(given) == list(range(2 * ENDPOINTS))


async def test_a_pass_under_a_lease_that_was_lost_meanwhile_gives_no_slot(
    machine: Machine,
) -> None:
    reconciler, first = machine.rollouts(), machine.lease()
    held = iter([first])

    def lease():
        if (one := next(held, None)) is not None:
            return one
        # Another has led in between: who has which slot is not what this pass has read.
        return replace(first, epoch=first.epoch + 2)

    reconciler._lease_of = lease
    assert await reconciler.reconcile() == 0.0
    async with machine.database.begin() as tx:
        assert (await tx.execute(select(replicas.c.slot))).scalars().all() == []
    with pytest.raises(StaleError):
        await reconciler.reconcile()
