"""Drains on the real reconcilers: they wait for requests, outlive a controller, and end at their deadline."""

import asyncio

from toys.machine import Machine
from weighbridge.receipts import service as receipts
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts.drains import service as drains
from weighbridge.rollouts.model import RolloutStatus


async def test_a_drain_waits_for_requests_in_flight(machine: Machine) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        old = await machine.rows(ReplicaState.READY)
        for one in old:
            machine.gateway.column.counts[one.slot] = 1
        await machine.deploy(2, 2)

        async def one_drains() -> bool:
            draining = await machine.rows(ReplicaState.DRAINING)
            return len(draining) == 1 and draining[0].drain_deadline is not None

        await machine.until(one_drains, "the first old replica waits for its request")
        await asyncio.sleep(0.3)  # longer than any poll: it must still be waiting
        assert await one_drains()
        for one in old:
            machine.gateway.column.counts[one.slot] = 0
        assert (await machine.ended("d2")).status is RolloutStatus.DONE


async def test_a_drain_goes_on_without_a_controller_and_is_finished_by_the_next(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        for one in await machine.rows(ReplicaState.READY):
            machine.gateway.column.counts[one.slot] = 1
        await machine.deploy(2, 2)

        async def draining() -> bool:
            return any(r.drain_deadline for r in await machine.rows(ReplicaState.DRAINING))

        await machine.until(draining, "an old replica waits for its request")
    (left,) = [r for r in await machine.rows(ReplicaState.DRAINING) if r.drain_deadline]
    async with machine.controlled():
        await asyncio.sleep(0.3)
        (same,) = [r for r in await machine.rows(ReplicaState.DRAINING) if r.id == left.id]
        assert same.drain_deadline == left.drain_deadline
        assert left.id in machine.runtime.processes
        for slot in range(len(machine.gateway.column.counts)):
            machine.gateway.column.counts[slot] = 0
        assert (await machine.ended("d2")).status is RolloutStatus.DONE


async def test_a_forced_drain_ends_with_its_requests_cut_and_the_receipt_says_so(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        for one in await machine.rows(ReplicaState.READY):
            machine.gateway.column.counts[one.slot] = 3
        await machine.deploy(2, 2)

        async def draining() -> bool:
            return any(r.drain_deadline for r in await machine.rows(ReplicaState.DRAINING))

        await machine.until(draining, "an old replica waits for its requests")
        (left,) = await machine.rows(ReplicaState.DRAINING)
        assert await force(machine, 0.5) == [left.id]
        # A deadline is never put off.
        assert await force(machine, 3_600) == [left.id]

        async def forced_again() -> bool:
            """The second old replica drains with the usual time."""
            return any(
                r.drain_deadline and r.id != left.id
                for r in await machine.rows(ReplicaState.DRAINING)
            )

        await machine.until(forced_again, "the other one waits for its requests")
        assert len(await force(machine, 0.0)) == 1

        async def none_is_left() -> bool:
            return not await machine.rows(ReplicaState.DRAINING)

        await machine.until(none_is_left, "both have ended")
        assert (await machine.ended("d2")).status is RolloutStatus.DONE
    async with machine.database.begin() as tx:
        stored = await receipts.read(tx, "d2")
    assert stored is not None
    told = [one.payload for one in stored.entries]
    forced = [one for one in told if one["event"] == "drain_forced"]
    assert [one["asked_by"] for one in forced] == ["k1"] * 3
    assert [one["in_flight"] for one in told if one.get("state") == "unrouted"] == [3, 3]
    ended = [one for one in told if one.get("state") == "stopping"]
    assert [one["in_flight"] for one in ended] == [3, 3]
    assert [one["reason"] for one in ended] == ["3 requests cut at the drain deadline"] * 2


async def force(machine: Machine, after_s: float) -> list[str]:
    async with machine.database.begin() as tx:
        found = await drains.force(
            tx, "chat", org_id=None, after_s=after_s, now=machine.clock.now(), asked_by="k1"
        )
    return [one.id for one in found]
