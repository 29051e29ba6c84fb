"""The receipt of a rollout on the real reconcilers and database: complete, sealed, and never changed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from toys.machine import Machine
from toys.rows import waiting
from weighbridge.control.loop import Loop
from weighbridge.receipts import service
from weighbridge.receipts.reconciler import ReceiptReconciler, SealTimes, signer
from weighbridge.receipts.service import Stored
from weighbridge.rollouts import store as rollout_store
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.rollouts.telling import submitted
from weighbridge.sdk.receipts.verify import Receipt, examine, read_receipt
from weighbridge.storage.counters import next_value
from weighbridge.storage.history_tables import usage_requests


@asynccontextmanager
async def sealing(machine: Machine) -> AsyncIterator[None]:
    reconciler = ReceiptReconciler(
        machine.database,
        machine.clock,
        machine.lease,
        times=SealTimes(settle_s=0.2),
        sign=signer(b"a key of the operator"),
    )
    async with machine.controlled():
        loop = Loop("receipts", reconciler.reconcile, machine.wake, 0.1)
        task = asyncio.create_task(loop.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def deploy(machine: Machine, number: int, version: int) -> str:
    deployment_id = f"d{number}"
    async with machine.database.begin() as tx:
        one = waiting(deployment_id, version)
        await rollout_store.add(tx, one, await next_value(tx, "deployments"))
        await service.tell(tx, one.id, one.endpoint_id, [submitted(one, asked_by="k1")])
    machine.wake("rollouts")
    return deployment_id


async def stored(machine: Machine, deployment_id: str) -> Stored:
    async with machine.database.begin() as tx:
        found = await service.read(tx, deployment_id)
    assert found is not None
    return found


async def sealed(machine: Machine, deployment_id: str) -> Receipt:
    async def is_sealed() -> bool:
        return (await stored(machine, deployment_id)).head.sealed_at is not None

    await machine.until(is_sealed, f"the receipt of {deployment_id} is sealed")
    document = (await stored(machine, deployment_id)).document()
    receipt = read_receipt(json.dumps(document))
    assert examine(receipt).findings == ()
    return receipt


def states(receipt: Receipt, version: int) -> list[list[str]]:
    """The states each replica of a version went through."""
    lives: dict[str, list[str]] = {}
    for one in receipt.payloads:
        if one["event"] == "replica" and one["version"] == version:
            lives.setdefault(str(one["replica"]), []).append(str(one["state"]))
    return list(lives.values())


async def test_a_rollout_leaves_every_step_of_every_replica_and_a_seal(machine: Machine) -> None:
    async with sealing(machine):
        await deploy(machine, 1, 1)
        first = await sealed(machine, "d1")
        await deploy(machine, 2, 2)
        await machine.ended("d2")
        ended = datetime.now(UTC)  # noqa: TID251
        async with machine.database.begin() as tx:
            row = {"org_id": "o", "key_id": "k", "endpoint_id": "chat", "prompt_tokens": 1}
            row |= {"cached_tokens": 0, "completion_tokens": 1, "duration_s": 0.1, "queue_s": 0.0}
            began = (await machine.deployment("d2")).started_at
            rows = [
                {**row, "ended_at": began, "version": v, "status": s, "held_s": held_s}
                for v, s, held_s in ((1, 200, 0.0), (2, 200, 1.5), (2, 503, 0.0))
            ]
            rows.append({**row, "ended_at": ended, "version": 2, "status": 200, "held_s": 0.0})
            await tx.execute(usage_requests.insert(), rows)
        second = await sealed(machine, "d2")
    new = ["pending", "starting", "warming", "ready", "routed"]
    assert states(first, 1) == [new, new]
    assert states(second, 2) == [new, new]
    assert states(second, 1) == [["draining", "stopping", "stopped"]] * 2
    assert [one["event"] for one in second.payloads if one["event"] != "replica"] == [
        "submitted", "started", "progress", "progress", "ended", "sealed",
    ]  # fmt: skip
    summary = second.summary
    assert summary["asked_by"] == "k1"
    assert (summary["version"], summary["base_version"]) == (2, 1)
    assert summary["floor"] == summary["routable_lowest"] == 2
    assert {one["digest_loaded"] for one in summary["replicas"] if one["version"] == 2} == {
        "2" * 64
    }
    assert (summary["drained"], summary["cut"], summary["held"]) == (0, 0, 1)
    assert summary["requests"][0] == {"version": 1, "requests": 1, "failed": 0}
    assert summary["requests"][1]["failed"] == 1
    assert all(summary["phases"][name] for name in summary["phases"])
    assert len(str(second.signature)) == 64
    assert first.summary["routable_lowest"] == 0


async def test_a_failing_version_leaves_its_failures_and_why_it_went_back(machine: Machine) -> None:
    async with sealing(machine):
        await deploy(machine, 1, 1)
        await sealed(machine, "d1")
        machine.runtime.crashing.add("2")
        await deploy(machine, 2, 2)
        assert (await machine.ended("d2")).status is RolloutStatus.ROLLED_BACK
        receipt = await sealed(machine, "d2")
    back = next(one for one in receipt.payloads if one["event"] == "turned_back")
    assert "cannot load tensor blk.0" in str(back["cause"])
    assert [life[-1] for life in states(receipt, 2)] == ["failed", "failed"]
    assert receipt.summary["status"] == "rolled_back"
    assert receipt.summary["routable_lowest"] == 2


async def test_the_database_refuses_to_change_or_remove_an_entry(machine: Machine) -> None:
    await deploy(machine, 1, 1)
    for statement in ("UPDATE receipt_entries SET payload = '{}'", "DELETE FROM receipt_entries"):
        with pytest.raises(DBAPIError, match="never changed or removed"):
            async with machine.database.begin() as tx:
                await tx.execute(text(statement))
    assert len((await stored(machine, "d1")).entries) == 1


async def test_a_receipt_goes_with_its_deployment_alone(machine: Machine) -> None:
    await deploy(machine, 1, 1)
    async with machine.database.begin() as tx:
        await tx.execute(text("DELETE FROM deployments"))
        assert await service.read(tx, "d1") is None


async def test_nothing_is_added_to_a_sealed_receipt(machine: Machine) -> None:
    async with sealing(machine):
        await deploy(machine, 1, 1)
        receipt = await sealed(machine, "d1")
        async with machine.database.begin() as tx:
            await service.tell(tx, "d1", "chat", [{"event": "progress", "at": "now"}])
        assert (await stored(machine, "d1")).head.head == receipt.head
