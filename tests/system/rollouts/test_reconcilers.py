"""The three reconcilers of a control plane together, on the real database, files and acks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text, update

from toy_machine import Machine, ToyEngine, ToyGateway, ToyRuntime, ToyStore, everything, furnish
from weighbridge.errors import StaleError
from weighbridge.receipts import service as receipts
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts.drains import service as drains
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.routing.files import read_snapshot
from weighbridge.routing.model import RouteTable
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.storage.tables import deployments, endpoints
from weighbridge.usage import store as usage_store
from weighbridge.usage.model import UsageEvent


@pytest.fixture
async def machine(database: Database, tmp_path: Path) -> AsyncIterator[Machine]:
    settings = Settings(
        data_dir=tmp_path,
        min_ready_s=0.1,
        bake_s=0.1,
        probe_start_period_s=0.02,
        probe_period_s=0.1,
        probe_timeout_s=1.0,
        replica_stop_grace_s=1.0,
    )
    async with database.begin() as tx:
        await furnish(tx)
    runtime = ToyRuntime()
    gateway = ToyGateway(settings)
    made = Machine(database, settings, runtime, ToyEngine(runtime), ToyStore(), gateway)
    worker = asyncio.create_task(gateway.run())
    yield made
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def test_a_first_deployment_serves_and_a_second_replaces_it_without_a_gap(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        first = await machine.ended("d1")
        assert first.status is RolloutStatus.DONE
        assert first.reason == "2/2 replicas ready on version 1"
        assert await machine.serving() == [1, 1]
        began = len(machine.gateway.routed)

        await machine.deploy(2, 2)
        second = await machine.ended("d2")
        assert second.status is RolloutStatus.DONE
        assert second.base_deployment_id == "d1"
        assert await machine.serving() == [2, 2]
        assert min(machine.gateway.routed[began:]) >= 2
        assert all(len(versions) <= 2 for versions in machine.gateway.versions)

        async def old_ones_are_gone() -> bool:
            return len(machine.runtime.processes) == 2

        await machine.until(old_ones_are_gone, "the old replicas are stopped and forgotten")
    assert machine.gateway.generations == sorted(machine.gateway.generations)
    # R15: each replica produced a real token before it was routed.
    assert set(machine.runtime.launched) <= set(machine.engine.generated)


async def test_deployments_run_in_the_order_of_submission(machine: Machine) -> None:
    async with machine.controlled():
        for number in (1, 2, 3):
            await machine.deploy(number, number)
        await machine.ended("d3")
        ends = [(await machine.deployment(f"d{n}")).finished_at for n in (1, 2, 3)]
        assert ends == sorted(ends)
        assert await machine.serving() == [3, 3]


async def test_a_crashing_version_is_rolled_back_and_never_takes_a_serving_replica(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        began = len(machine.gateway.routed)
        machine.runtime.crashing.add("2")
        await machine.deploy(2, 2)
        failed = await machine.ended("d2")
        assert failed.status is RolloutStatus.ROLLED_BACK
        assert failed.failures == 2
        assert failed.updated_replicas == 0
        assert "cannot load tensor blk.0" in (failed.error_message or "")
        assert await machine.serving() == [1, 1]
        assert min(machine.gateway.routed[began:], default=2) >= 2


async def test_a_replica_that_serves_other_bytes_is_never_routed(machine: Machine) -> None:
    machine.engine.strangers = _Everyone()
    async with machine.controlled():
        await machine.deploy(1, 1)
        failed = await machine.ended("d1")
    assert failed.status is RolloutStatus.ERROR
    assert "serves another digest" in (failed.error_message or "")
    assert max(machine.gateway.routed, default=0) == 0


async def test_missing_weights_fail_the_deployment_with_the_reason(machine: Machine) -> None:
    machine.store.missing.add("1" * 64)
    async with machine.controlled():
        await machine.deploy(1, 1)
        failed = await machine.ended("d1")
    assert failed.status is RolloutStatus.ERROR
    assert "not in the store" in (failed.error_message or "")
    assert machine.runtime.launched == []


async def test_a_replica_that_dies_is_replaced_by_the_version_that_serves(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        victim = (await machine.rows(ReplicaState.READY))[0]
        machine.runtime.exit(victim.id, -9)

        async def replaced() -> bool:
            ready = await machine.rows(ReplicaState.READY)
            return len(ready) == 2 and victim.id not in {r.id for r in ready}

        await machine.until(replaced, "the dead replica is replaced")
        (failed,) = await machine.rows(ReplicaState.FAILED)
        assert failed.reason.startswith("exited with code -9")


async def test_a_replica_that_hangs_is_given_up_and_stopped_before_its_slot_is_free(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        victim = (await machine.rows(ReplicaState.READY))[0]
        machine.engine.sick.add(victim.id)

        async def given_up() -> bool:
            states = {r.id: r.state for r in await machine.rows()}
            return states[victim.id] is ReplicaState.FAILED and len(await machine.serving()) == 2

        await machine.until(given_up, "the hanging replica is replaced")
        assert machine.runtime.launched.count(victim.id) == 1


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


async def test_a_control_plane_that_is_killed_mid_rollout_continues_and_starts_nothing_twice(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
    for life in range(40):
        async with machine.controlled():
            if life == 0:
                await machine.deploy(2, 2)
            await asyncio.sleep(0.01 * (1 + life % 7))
        if (await machine.deployment("d2")).status.final:
            break
    async with machine.controlled():
        assert (await machine.ended("d2")).status is RolloutStatus.DONE
        assert await machine.serving() == [2, 2]
    assert len(machine.runtime.launched) == len(set(machine.runtime.launched)) == 4
    assert machine.gateway.generations == sorted(machine.gateway.generations)


async def test_what_runs_is_adopted_and_what_nobody_asked_for_is_stopped(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
    before = {r.id for r in await machine.rows(ReplicaState.READY)}
    name = next(iter(before))
    orphan = machine.runtime.processes[name]
    machine.runtime.processes["r-orphan"] = type(orphan)(
        **{s: getattr(orphan, s) for s in orphan.__slots__} | {"name": "r-orphan"}
    )
    async with machine.controlled():

        async def orphan_is_gone() -> bool:
            return "r-orphan" not in machine.runtime.processes

        await machine.until(orphan_is_gone, "the orphan is stopped and forgotten")
        assert {r.id for r in await machine.rows(ReplicaState.READY)} == before
    assert len(machine.runtime.launched) == 2


async def test_a_cancelled_rollout_returns_to_the_version_before_it(machine: Machine) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        machine.runtime.places = 2  # the new replica waits for a place, so the rollout stays open
        await machine.deploy(2, 2)

        async def waits() -> bool:
            return "every place is taken" in (await machine.deployment("d2")).reason

        await machine.until(waits, "the rollout says what it waits for")
        async with machine.database.begin() as tx:
            await tx.execute(
                update(deployments)
                .where(deployments.c.id == "d2")
                .values(cancel_requested=True, revision=deployments.c.revision + 1)
            )
        machine.wake("rollouts")
        ended = await machine.ended("d2")
        assert ended.status is RolloutStatus.CANCELLED
        assert ended.error_message == "cancelled; restored version 1"
        assert await machine.serving() == [1, 1]


async def test_an_endpoint_follows_its_size_and_a_deleted_one_is_drained(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        for size in (4, 1):
            await machine.resize(size)

            async def fits(size: int = size) -> bool:
                return await machine.serving() == [1] * size

            await machine.until(fits, f"{size} replicas serve")
        async with machine.database.begin() as tx:
            await tx.execute(update(endpoints).values(deleted_at=text("now()")))
        machine.wake("rollouts")

        async def empty() -> bool:
            return machine.runtime.processes == {}

        await machine.until(empty, "the deleted endpoint's replicas are gone")
        table = read_snapshot(machine.settings.paths.routes_file, RouteTable)
        assert table is not None
        assert table.endpoints == ()


async def test_a_controller_that_lost_its_lease_writes_nothing(machine: Machine) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
    stale = machine.lease()
    old = [machine.rollouts(), machine.replicas(), machine.publisher()]
    async with machine.database.begin() as tx:
        await tx.execute(text("UPDATE leases SET expires_at = '-infinity'"))
    await machine.lead("new")
    machine.held = stale
    await machine.deploy(2, 2)
    before = await everything(machine.database)
    launched = list(machine.runtime.launched)
    for reconciler in old:
        with pytest.raises(StaleError):
            await reconciler.reconcile()
    assert await everything(machine.database) == before
    assert machine.runtime.launched == launched


async def test_an_idle_control_plane_leaves_rows_and_tables_alone(machine: Machine) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")

        async def routed() -> bool:
            rows = await machine.rows(ReplicaState.READY)
            return all(r.routed_at for r in rows)

        await machine.until(routed, "the gateway routes to both")
    passes = [machine.rollouts(), machine.replicas(), machine.publisher()]
    for one in passes:
        await one.reconcile()
    before = await everything(machine.database)
    generation = machine.gateway.generations[-1]
    for _ in range(5):
        for one in passes:
            await one.reconcile()
    await passes[1].close()
    assert await everything(machine.database) == before
    table = read_snapshot(machine.settings.paths.routes_file, RouteTable)
    assert table is not None
    assert table.generation == generation


class _Everyone(set[str]):
    def __contains__(self, item: object) -> bool:
        return True


async def test_what_cannot_be_committed_is_not_done(machine: Machine) -> None:
    """A database that takes no write: the replicas go on, and nothing is started, stopped or published."""
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
        await machine.deploy(2, 2)
        async with machine.database.begin() as tx:
            for table in ("replicas", "deployments", "counters"):
                await tx.execute(
                    text(
                        f"CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS "
                        "$$ BEGIN RAISE EXCEPTION 'read-only' USING ERRCODE = '25006'; END $$"
                    )
                )
                await tx.execute(
                    text(
                        f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} "
                        f"FOR EACH ROW EXECUTE FUNCTION refuse_{table}()"
                    )
                )
        before = (await everything(machine.database), dict(machine.runtime.processes))
        launched = list(machine.runtime.launched)
        await asyncio.sleep(0.5)
        assert machine.runtime.launched == launched
        assert (await everything(machine.database), dict(machine.runtime.processes)) == before
        async with machine.database.begin() as tx:
            for table in ("replicas", "deployments", "counters"):
                await tx.execute(text(f"DROP FUNCTION refuse_{table}() CASCADE"))
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


async def test_a_version_that_answers_errors_while_it_is_watched_goes_back_with_the_figures(
    machine: Machine,
) -> None:
    async with machine.controlled():
        await machine.deploy(1, 1)
        await machine.ended("d1")
    machine.settings = machine.settings.model_copy(update={"bake_s": 60.0})
    async with machine.controlled():
        await machine.deploy(2, 2)

        async def watched() -> bool:
            return "watching" in (await machine.deployment("d2")).reason

        await machine.until(watched, "all replicas serve version 2")
        now_s = machine.clock.now().timestamp()
        events = [
            UsageEvent(
                now_s - 5 if version == 1 else now_s, "org_1", "k", "chat", version, status,
                5, 0, 5 * (status == 200), False, 1.0, 0.0, 0.1,
            )
            for version, bad in ((1, 0), (2, 9))
            for status in [503] * bad + [200] * (100 - bad)
        ]  # fmt: skip
        async with machine.database.begin() as tx:
            await usage_store.add_requests(tx, events)
        ended = await machine.ended("d2")
    assert ended.status is RolloutStatus.ROLLED_BACK
    assert ended.error_message == (
        "5xx 9.0 % of 100 requests on version 2 against 0.0 % of 100 requests on version 1"
    )
    assert await machine.serving() == [1, 1]


async def test_an_endpoint_s_own_limits_of_the_gate_are_those_that_count(machine: Machine) -> None:
    """From the moment they are set, for the rollout under way too."""
    machine.settings = machine.settings.model_copy(
        update={"gate_errors_share": 0.5, "bake_s": 60.0}
    )
    async with machine.controlled():
        await machine.deploy(1, 1)

        async def watched() -> bool:
            return "watching" in (await machine.deployment("d1")).reason

        await machine.until(watched, "all replicas serve version 1")
        now_s = machine.clock.now().timestamp()
        events = [
            UsageEvent(
                now_s, "org_1", "k", "chat", 1, status, 5, 0, 5 * (status == 200), False, 1.0, 0.0, 0.1,
            )
            for status in [503] * 9 + [200] * 91
        ]  # fmt: skip
        async with machine.database.begin() as tx:
            await usage_store.add_requests(tx, events)
        assert await watched()
        async with machine.database.begin() as tx:
            await tx.execute(update(endpoints).values(gate={"errors_share": 0.05}))
        ended = await machine.ended("d1")
    assert ended.status is RolloutStatus.ERROR
    assert ended.error_message == "5xx 9.0 % of 100 requests on version 1"
