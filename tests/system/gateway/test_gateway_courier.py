"""A gateway with a courier on a real database: what it says of requests, and one gateway following another."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from installation import processes_of
from separate_roles import own_postgres
from test_gateway_process import load_on
from test_gateway_succession import follow

from gateway_process import ENDPOINT, KEY, START_S, GatewayProcess, until
from stub_engine import running
from weighbridge.routing.hosts import store
from weighbridge.routing.hosts.identity import place
from weighbridge.routing.hosts.model import Host
from weighbridge.routing.model import EndpointRoute, KeyTable, RouteTable
from weighbridge.routing.published import KEYS, ROUTES, Published
from weighbridge.routing.tokens import pepper_mark
from weighbridge.storage.database import Database
from weighbridge.storage.schema.migrate import migrate

pytestmark = pytest.mark.system

CALLERS = 12


class Board:
    """The database of a control plane that publishes what a test says."""

    def __init__(self, database: Database, gateway: GatewayProcess) -> None:
        self.database = database
        self.gateway = gateway
        self.generation = 0

    async def publish(self, *endpoints: EndpointRoute) -> int:
        self.generation += 1
        number, mark = self.generation, pepper_mark(self.gateway.pepper)
        routes, keys = RouteTable(number, endpoints), KeyTable(number, self.gateway.usual_keys())
        async with self.database.begin() as tx:
            await Published(ROUTES, RouteTable).put(tx, routes, place=place(), pepper_mark=mark)
            await Published(KEYS, KeyTable).put(tx, keys, place=place(), pepper_mark=mark)
        return number

    async def hosts(self) -> list[Host]:
        async with self.database.begin() as tx:
            return list(await store.hosts(tx))

    async def until(self, condition: Callable[[Host], bool]) -> Host:
        """The first report that fulfils it."""
        async with asyncio.timeout(START_S):
            while True:
                for host in await self.hosts():
                    if condition(host):
                        return host
                await asyncio.sleep(0.02)


@asynccontextmanager
async def on_board(
    tmp_path: Path, postgres: Path, monkeypatch: pytest.MonkeyPatch, **options: object
) -> AsyncIterator[Board]:
    with own_postgres(postgres) as url:
        await asyncio.to_thread(migrate, url)
        monkeypatch.setenv("WEIGHBRIDGE_DATABASE_URL", url)
        database = Database(url)
        gateway = GatewayProcess(tmp_path / "data", arguments=("--courier",), **options)
        board = Board(database, gateway)
        try:
            await board.publish()
            await gateway.start()
            try:
                yield board
            finally:
                await gateway.stop()
            assert await board.hosts() == []
        finally:
            await database.close()


def couriers(board: Board) -> list[int]:
    found = processes_of(board.gateway.root)
    return [pid for pid, command in found.items() if "weighbridge.gateway.courier" in command]


async def test_what_is_in_flight_on_a_replica_that_left_the_table_is_told_until_it_ends(
    tmp_path: Path, public_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_board(tmp_path, public_tmp_path / "pg", monkeypatch) as board:
        gateway = board.gateway
        engine = gateway.engine("r0", mode="silent")
        async with (
            running(engine) as url,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        ):
            routed = await board.publish(gateway.endpoint(gateway.replica("r0", url, slot=7)))
            await board.until(lambda host: host.report.routes_generation == routed)
            body = {"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}]}
            asking = asyncio.create_task(
                session.post(f"{gateway.url}/v1/chat/completions", json=body)
            )
            await until(lambda: engine.open_now == 1, gateway)
            unrouted = await board.publish(gateway.endpoint())
            host = await board.until(lambda host: host.report.routes_generation == unrouted)
            # In the very report that says that nobody is sent there any more.
            assert host.report.in_flight == {7: 1}
            engine.released.set()
            assert (await asking).status == 200
            host = await board.until(lambda host: not host.report.in_flight)
            assert host.report.routes_generation == unrouted


async def test_the_courier_of_a_gateway_that_follows_speaks_for_both(
    tmp_path: Path, public_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        on_board(tmp_path, public_tmp_path / "pg", monkeypatch, workers=2) as board,
        AsyncExitStack() as stack,
    ):
        gateway = board.gateway
        engine = gateway.engine("r0", tokens=5, pause_s=0.005)
        url = await stack.enter_async_context(running(engine))
        routed = await board.publish(gateway.endpoint(gateway.replica("r0", url, slot=0)))
        before = await board.until(lambda host: host.report.routes_generation == routed)
        assert len(before.report.workers) == 2
        (old,) = couriers(board)
        async with load_on(gateway, CALLERS) as load:
            await until(lambda: load.whole > CALLERS, gateway)
            first = await follow(gateway, "--courier", "--workers", "1")
            assert await asyncio.to_thread(first.wait, START_S) == 0
            enough = load.whole + CALLERS
            await until(lambda: load.whole > enough, gateway)
        assert load.faults == []
        host = await board.until(lambda host: len(host.report.workers) == 1)
        assert (host.id, host.expired) == (before.id, False)
        (new,) = couriers(board)
        assert new != old
        later = await board.publish(gateway.endpoint())
        await board.until(lambda host: host.report.routes_generation == later)
        os.kill(new, 0)
