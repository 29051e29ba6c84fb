"""What a courier brings, and what keeps a host from serving at all."""

import pytest

from weighbridge.errors import SetupError
from weighbridge.gateway.courier.tables import Tables
from weighbridge.routing.files import read_snapshot, write_snapshot
from weighbridge.routing.model import EndpointRoute, KeyEntry, KeyTable, ReplicaRoute, RouteTable
from weighbridge.routing.published import KEYS, ROUTES, Published
from weighbridge.routing.tokens import load_pepper, pepper_mark
from weighbridge.settings import DataDir
from weighbridge.storage.database import Database

HERE, ELSEWHERE = "boot/1", "boot/2"


def replica(slot: int, url: str) -> ReplicaRoute:
    return ReplicaRoute(f"r{slot}", slot, url, "i", f"r{slot}.d", "d", 1, "fp_d")


def table(generation: int, *urls: str) -> RouteTable:
    replicas = tuple(replica(slot, url) for slot, url in enumerate(urls))
    return RouteTable(
        generation, (EndpointRoute("e", "o", "org", "arch", 1, True, False, replicas),)
    )


@pytest.fixture
def tables(database: Database, paths: DataDir) -> Tables:
    return Tables(database, paths, paths.secrets, HERE)


async def publish(
    database: Database, paths: DataDir, routes: RouteTable, place: str = HERE, mark: str = ""
) -> None:
    mark = mark or pepper_mark(load_pepper(paths.secrets))
    keys = KeyTable(routes.generation, (KeyEntry("ab", "k", "o"),))
    async with database.begin() as tx:
        await Published(ROUTES, RouteTable).put(tx, routes, place=place, pepper_mark=mark)
        await Published(KEYS, KeyTable).put(tx, keys, place=place, pepper_mark=mark)


async def test_what_is_newer_is_written_and_what_is_older_is_not(
    database: Database, paths: DataDir, tables: Tables
) -> None:
    await tables.bring()
    assert (tables.routes_generation, tables.keys_generation) == (0, 0)
    await publish(database, paths, table(4, "http://10.0.0.1:1", "http://127.0.0.1:1"))
    await tables.bring()
    assert read_snapshot(paths.routes_file, RouteTable) == table(
        4, "http://10.0.0.1:1", "http://127.0.0.1:1"
    )
    assert read_snapshot(paths.keys_file, KeyTable) == KeyTable(4, (KeyEntry("ab", "k", "o"),))
    assert (tables.routes_generation, tables.keys_generation) == (4, 4)
    assert tables.slots == {0, 1}
    # A controller on this data directory was quicker.
    write_snapshot(paths.routes_file, table(6))
    await publish(database, paths, table(5, "http://10.0.0.1:1"))
    await tables.bring()
    assert read_snapshot(paths.routes_file, RouteTable) == table(6)
    assert (tables.routes_generation, tables.keys_generation, tables.slots) == (6, 5, frozenset())


async def test_a_host_begins_with_what_its_disk_has(
    database: Database, paths: DataDir, tables: Tables
) -> None:
    write_snapshot(paths.routes_file, table(3, "http://10.0.0.1:1"))
    await tables.look_here()
    assert (tables.routes_generation, tables.keys_generation, tables.slots) == (3, 0, {0})


async def test_replicas_on_another_machine_s_loopback_are_left_out(
    database: Database, paths: DataDir, tables: Tables
) -> None:
    both = table(1, "http://10.0.0.1:1", "http://127.0.0.1:1")
    await publish(database, paths, both, ELSEWHERE)
    async with database.begin() as tx:
        await tables.admit(tx)
    await tables.bring()
    assert read_snapshot(paths.routes_file, RouteTable) == table(1, "http://10.0.0.1:1")


async def test_a_host_that_can_reach_no_replica_says_which_setting_is_missing(
    database: Database, paths: DataDir, tables: Tables
) -> None:
    await publish(database, paths, table(1, "http://127.0.0.1:1"), ELSEWHERE)
    with pytest.raises(SetupError, match="Set WEIGHBRIDGE_REPLICA_HOST"):
        async with database.begin() as tx:
            await tables.admit(tx)


@pytest.mark.parametrize("own", [False, True], ids=["without", "with another"])
async def test_a_host_with_the_wrong_pepper_takes_nothing(
    database: Database, paths: DataDir, tables: Tables, *, own: bool
) -> None:
    await publish(database, paths, table(1), mark="another's")
    if not own:
        (paths.secrets / "pepper").unlink(missing_ok=True)
    else:
        load_pepper(paths.secrets)
    for step in (tables.bring(), _admit(database, tables)):
        with pytest.raises(SetupError, match="copy secrets/pepper"):
            await step
    assert read_snapshot(paths.routes_file, RouteTable) is None


async def _admit(database: Database, tables: Tables) -> None:
    async with database.begin() as tx:
        await tables.admit(tx)
