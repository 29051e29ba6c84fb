"""What is published to the gateways, when, and what a crash between two steps of it leaves behind."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text, update

from toys.gateway import ToyGateway
from toys.machine import Machine
from toys.node import ToyEngine, ToyRuntime, ToyStore
from toys.rows import NOW, furnish, waiting
from toys.world import replica
from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import KeyKind
from weighbridge.errors import StaleError
from weighbridge.replicas import store
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts import store as rollout_store
from weighbridge.routing.files import read_snapshot, write_snapshot
from weighbridge.routing.model import KeyTable, RouteTable, TrafficShare
from weighbridge.routing.published import Published, heads
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.storage.tables import deployments

S = ReplicaState


@pytest.fixture
async def machine(database: Database, tmp_path: Path) -> Machine:
    settings = Settings(data_dir=tmp_path)
    runtime = ToyRuntime()
    made = Machine(
        database, settings, runtime, ToyEngine(runtime), ToyStore(), ToyGateway(settings)
    )
    async with database.begin() as tx:
        await furnish(tx)
        await rollout_store.add(tx, waiting("d1", 1), 1)
        await store.add(tx, [ready("a", 0)])
    await made.lead("control")
    return made


def ready(replica_id: str, slot: int) -> Replica:
    return replica(
        replica_id, state=S.READY, slot=slot, url=f"http://toy/{replica_id}", incarnation="i1"
    )


def table(machine: Machine) -> RouteTable:
    found = read_snapshot(machine.settings.paths.routes_file, RouteTable)
    assert found is not None
    return found


async def rows(machine: Machine) -> dict[str, Replica]:
    return {r.id: r for r in await machine.rows()}


async def change(machine: Machine, before: Replica, **changes: object) -> None:
    async with machine.database.begin() as tx:
        await store.save(tx, before, replace(before, **changes))


async def test_a_ready_replica_is_named_with_what_the_gateway_needs(machine: Machine) -> None:
    await machine.publisher().reconcile()
    (endpoint,) = table(machine).endpoints
    assert (endpoint.endpoint_id, endpoint.org_name, endpoint.arch_id) == ("chat", "acme", "tiny")
    assert (endpoint.deployed, endpoint.rolling_out, endpoint.choices_max) == (False, False, 2)
    assert endpoint.min_tokens
    (route,) = endpoint.replicas
    assert (route.replica_id, route.url, route.incarnation) == ("a", "http://toy/a", "i1")
    assert route.served_name == "a.digest-v1"
    assert (await rows(machine))["a"].routed_generation == table(machine).generation == 1


async def test_the_generation_is_taken_only_when_the_content_changed(machine: Machine) -> None:
    publisher = machine.publisher()
    for _ in range(3):
        await publisher.reconcile()
    assert table(machine).generation == 1
    async with machine.database.begin() as tx:
        await store.add(tx, [ready("b", 1)])
    await publisher.reconcile()
    assert table(machine).generation == 2
    generations = {r.id: r.routed_generation for r in (await rows(machine)).values()}
    assert generations == {"a": 1, "b": 2}


async def test_a_draining_replica_leaves_the_table_and_learns_which_one(machine: Machine) -> None:
    publisher = machine.publisher()
    await publisher.reconcile()
    await change(machine, (await rows(machine))["a"], state=S.DRAINING)
    await publisher.reconcile()
    assert table(machine).endpoints[0].replicas == ()
    assert (await rows(machine))["a"].unrouted_generation == table(machine).generation == 2


async def test_a_crash_after_the_file_and_before_the_rows_is_made_good_without_a_new_table(
    machine: Machine,
) -> None:
    await machine.publisher().reconcile()
    async with machine.database.begin() as tx:
        await tx.execute(text("UPDATE replicas SET routed_generation = NULL"))
    await machine.publisher().reconcile()
    assert table(machine).generation == 1
    assert (await rows(machine))["a"].routed_generation == 1


async def test_a_crash_after_the_generation_and_before_the_file_skips_a_number(
    machine: Machine,
) -> None:
    async with machine.database.begin() as tx:
        await tx.execute(text("INSERT INTO counters (name, value) VALUES ('routes', 4)"))
    await machine.publisher().reconcile()
    assert table(machine).generation == 5


@pytest.mark.parametrize("damage", ["lost", "torn", "replaced"])
async def test_a_damaged_file_is_written_again_and_a_newer_one_is_followed_by_a_higher_generation(
    machine: Machine, damage: str
) -> None:
    publisher = machine.publisher()
    await publisher.reconcile()
    path = machine.settings.paths.routes_file
    if damage == "lost":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(b'{"generation": 1, "endp')
    else:
        write_snapshot(path, RouteTable(generation=40, endpoints=()))
    await publisher.reconcile()
    assert table(machine).generation == (41 if damage == "replaced" else 1)
    assert len(table(machine).endpoints[0].replicas) == 1


async def test_a_controller_elsewhere_goes_on_from_the_newest_table_not_from_its_own_old_file(
    machine: Machine, tmp_path: Path
) -> None:
    """Its file says what the rows want, but the gateways have had another table since."""
    here, there = Settings(data_dir=tmp_path / "here"), Settings(data_dir=tmp_path / "there")
    one = (await rows(machine))["a"]
    await replace(machine, settings=here).publisher().reconcile()
    there.paths.run.mkdir(parents=True)
    for name in ("routes.json", "keys.json"):
        (there.paths.run / name).write_bytes((here.paths.run / name).read_bytes())
    await change(machine, one, state=S.DRAINING)
    await replace(machine, settings=here).publisher().reconcile()
    await change(machine, (await rows(machine))["a"], state=S.STOPPING)
    async with machine.database.begin() as tx:
        await tx.execute(text("UPDATE replicas SET state = 'ready', routed_generation = NULL"))
    told: list[None] = []
    other = replace(machine, settings=there).publisher(tell=lambda: told.append(None))
    await other.reconcile()
    found = read_snapshot(there.paths.routes_file, RouteTable)
    assert found is not None
    assert (found.generation, len(found.endpoints[0].replicas)) == (3, 1)
    assert (await rows(machine))["a"].routed_generation == 3
    assert len(told) == 1


async def test_what_is_in_the_database_is_the_file_s_table_with_the_mark_of_its_pepper(
    machine: Machine,
) -> None:
    await machine.publisher(pepper_mark="mine").reconcile()
    newest = Published("routes", RouteTable)
    async with machine.database.begin() as tx:
        head = (await heads(tx))["routes"]
        assert await newest.read(tx, head) == table(machine)
    assert (head.generation, head.pepper_mark) == (1, "mine")
    await machine.publisher(pepper_mark="another's").reconcile()
    assert table(machine).generation == 2
    with pytest.raises(StaleError, match="published routes meanwhile"):
        async with machine.database.begin() as tx:
            await newest.put(tx, RouteTable(2, ()), place="", pepper_mark="")


async def test_an_endpoint_that_once_served_stays_known_and_a_deleted_one_goes(
    machine: Machine,
) -> None:
    publisher = machine.publisher()
    one = (await rows(machine))["a"]
    await change(machine, one, state=S.FAILED, ready_at=one.created_at)
    await publisher.reconcile()
    (endpoint,) = table(machine).endpoints
    assert (endpoint.deployed, endpoint.replicas) == (True, ())
    async with machine.database.begin() as tx:
        await tx.execute(text("UPDATE endpoints SET deleted_at = now()"))
    await publisher.reconcile()
    assert table(machine).endpoints == ()


async def test_a_canary_s_share_is_in_the_table_until_it_is_promoted_and_nobody_s_when_it_goes_back(
    machine: Machine,
) -> None:
    publisher = machine.publisher()

    async def shared(**values: object) -> TrafficShare | None:
        async with machine.database.begin() as tx:
            await tx.execute(update(deployments).where(deployments.c.id == "d1").values(**values))
        await publisher.reconcile()
        return table(machine).endpoints[0].share

    assert await shared(traffic_percent=25) is None
    assert await shared(status="in_progress") == TrafficShare(version=1, percent=25)
    assert await shared(status="rolling_back") == TrafficShare(version=1, percent=0)
    assert await shared(status="in_progress", promoted_at=NOW) is None


async def test_keys_are_published_when_they_change_and_revoked_ones_leave(
    machine: Machine,
) -> None:
    publisher = machine.publisher()
    await publisher.reconcile()
    path = machine.settings.paths.keys_file
    assert read_snapshot(path, KeyTable) == KeyTable(generation=1, keys=())
    async with machine.database.begin() as tx:
        org = await accounts.org_by_name(tx, "acme")
        key, _ = await accounts.create_key(
            tx,
            pepper=b"p" * 32,
            key_id=machine.clock.new_short_id(),
            secret=machine.clock.new_secret(),
            kind=KeyKind.INFERENCE,
            org_id=org.id,
            name="app",
            now=machine.clock.now(),
        )
    await publisher.reconcile()
    published = read_snapshot(path, KeyTable)
    assert published is not None
    assert [entry.key_id for entry in published.keys] == [key.id]
    async with machine.database.begin() as tx:
        await accounts.revoke(tx, key.id, now=machine.clock.now())
    await publisher.reconcile()
    assert read_snapshot(path, KeyTable) == KeyTable(generation=3, keys=())


async def test_an_endpoint_whose_replica_starts_quickly_is_held_and_says_when_it_is_back(
    machine: Machine,
) -> None:
    """Its replica took 3 s to start, the server holds for up to 50 s."""
    publisher = machine.publisher()
    async with machine.database.begin() as tx:
        await tx.execute(text("UPDATE endpoints SET base_deployment_id = 'd1'"))
        await tx.execute(text("UPDATE replicas SET ready_at = created_at + interval '3 s'"))
    await publisher.reconcile()
    (served,) = table(machine).endpoints
    assert (served.hold_s, served.start_s, served.ready_expected_unix_s) == (50.0, 3.0, None)
    await change(machine, (await rows(machine))["a"], state=S.FAILED)
    async with machine.database.begin() as tx:
        await store.add(tx, [replica("b", state=S.STARTING, slot=1)])
    await publisher.reconcile()
    (starting,) = table(machine).endpoints
    created_unix_s = (await rows(machine))["b"].created_at.timestamp()
    assert (starting.replicas, starting.hold_s) == ((), 50.0)
    assert starting.ready_expected_unix_s == round(created_unix_s + 3.0, 1)


@pytest.mark.parametrize(
    ("statement", "hold_s"),
    [
        # Longer than the server holds by itself.
        ("UPDATE replicas SET ready_at = created_at + interval '51 s'", 0.0),
        # It never was ready, so nobody knows.
        ("UPDATE replicas SET ready_at = NULL", 0.0),
        # Nobody would start another.
        ("UPDATE endpoints SET base_deployment_id = NULL", 0.0),
        ("""UPDATE endpoints SET gateway = '{"hold_s": 0}'""", 0.0),
        ("""UPDATE endpoints SET gateway = '{"hold_s": 7.5}'""", 7.5),
    ],
)
async def test_what_turns_the_hold_off_or_changes_it(
    machine: Machine, statement: str, hold_s: float
) -> None:
    async with machine.database.begin() as tx:
        await tx.execute(text("UPDATE endpoints SET base_deployment_id = 'd1'"))
        await tx.execute(text("UPDATE replicas SET ready_at = created_at + interval '3 s'"))
        await tx.execute(text(statement))
    await machine.publisher().reconcile()
    assert table(machine).endpoints[0].hold_s == hold_s


async def test_the_time_of_a_start_is_the_median_of_the_last_five(machine: Machine) -> None:
    async with machine.database.begin() as tx:
        for number, took_s in enumerate((100, 100, 100, 2, 30, 1, 4, 3)):
            await store.add(tx, [replica(f"x{number}", state=S.STOPPED)])
            await tx.execute(
                text(
                    "UPDATE replicas SET created_at = :at + make_interval(secs => :n - :took), "
                    "ready_at = :at + make_interval(secs => :n) WHERE id = :id"
                ),
                {"at": NOW, "n": 1000.0 * number, "took": float(took_s), "id": f"x{number}"},
            )
        await tx.execute(text("UPDATE replicas SET ready_at = NULL WHERE id = 'a'"))
    await machine.publisher().reconcile()
    assert table(machine).endpoints[0].start_s == 3.0
