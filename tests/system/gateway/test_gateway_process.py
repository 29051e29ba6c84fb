"""The gateway's processes under kill, shutdown, rival gateways and route changes, with streams in flight."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

import weighbridge
from gateway_process import ENDPOINT, KEY, START_S, GatewayProcess, until
from stub_engine import StubEngine, running
from weighbridge.gateway.wire import client
from weighbridge.routing.model import TrafficShare

pytestmark = pytest.mark.system

STREAMS = 48
ROLLOUT_STEPS = 6
CANARY_REQUESTS = 1_000


@asynccontextmanager
async def started(tmp_path: Path, **options: object) -> AsyncIterator[GatewayProcess]:
    gateway = GatewayProcess(tmp_path / "data", **options)
    gateway.publish_keys()
    gateway.publish_routes()
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


@dataclass
class Load:
    """Callers that stream one answer after the other, and what they saw."""

    session: aiohttp.ClientSession
    url: str
    whole: int = 0
    faults: list[str] = field(default_factory=list)
    fingerprints: set[str] = field(default_factory=set)
    stopping: bool = False

    async def caller(self) -> None:
        while not self.stopping:
            await self.one()

    async def one(self) -> None:
        body = {
            "model": ENDPOINT,
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
        }
        try:
            async with self.session.post(self.url + "/v1/chat/completions", json=body) as answer:
                text = await answer.text()
        except aiohttp.ClientError as error:
            self.faults.append(repr(error))
            return
        events = text.strip().split("\n\n")
        # A stream that stalls for long gets comments.
        parts = [event.removeprefix("data: ") for event in events if not event.startswith(":")]
        if answer.status != 200 or parts[-1] != "[DONE]":
            self.faults.append(f"{answer.status} {parts[-1]}")
            return
        seen = {json.loads(part)["system_fingerprint"] for part in parts[:-1]}
        if len(seen) != 1:
            self.faults.append(f"mixed {seen}")
        self.fingerprints |= seen
        self.whole += 1


@asynccontextmanager
async def load_on(gateway: GatewayProcess, callers: int) -> AsyncIterator[Load]:
    headers = {"authorization": f"Bearer {KEY}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        load = Load(session, gateway.url)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(load.caller())
            try:
                yield load
            finally:
                load.stopping = True


async def test_the_log_says_whether_the_data_path_is_compiled(tmp_path):
    async with started(tmp_path) as gateway:
        begun = [
            json.loads(line) for line in gateway.log.splitlines() if "gateway.listening" in line
        ]
    assert {line["compiled"] for line in begun} == {Path(client.__file__).suffix == ".so"}


async def test_replicas_are_replaced_under_48_streams_without_a_failed_or_cut_one(tmp_path):
    """Route new, unroute old, wait for acks, wait for in-flight 0, stop: G1, G5, G7."""
    async with started(tmp_path, workers=2) as gateway, AsyncExitStack() as engines:

        async def replica(number: int):
            engine = gateway.engine(f"r{number}", tokens=10, pause_s=0.005)
            stack = await engines.enter_async_context(AsyncExitStack())
            url = await stack.enter_async_context(running(engine))
            return gateway.replica(f"r{number}", url, slot=number, version=number), stack

        old = [await replica(0), await replica(1)]
        routed = gateway.publish_routes(gateway.endpoint(*(made for made, _ in old)))
        await gateway.applied(routed)
        async with load_on(gateway, STREAMS) as load:
            await until(lambda: load.whole > STREAMS)
            for number in range(2, 2 + ROLLOUT_STEPS):
                gone, server = old.pop(0)
                old.append(await replica(number))
                routed = gateway.publish_routes(gateway.endpoint(*(made for made, _ in old)))
                await gateway.applied(routed)
                await until(lambda slot=gone.slot: gateway.view.in_flight(slot) == 0)
                await server.aclose()
            enough = load.whole + STREAMS
            await until(lambda: load.whole > enough)
        assert load.faults == []
        assert len(load.fingerprints) >= ROLLOUT_STEPS


async def test_a_canary_gets_its_share_of_the_requests_and_whoever_is_left_gets_all(tmp_path):
    async with started(tmp_path, workers=2) as gateway, AsyncExitStack() as engines:

        async def replica(number: int, version: int):
            engine = gateway.engine(f"r{number}", tokens=2, pause_s=0.001)
            url = await engines.enter_async_context(running(engine))
            return gateway.replica(f"r{number}", url, slot=number, version=version), engine

        made = [await replica(0, 7), await replica(1, 7), await replica(2, 7), await replica(3, 8)]
        routes = [route for route, _ in made]
        share = TrafficShare(version=8, percent=20)
        await gateway.applied(
            gateway.publish_routes(gateway.endpoint(*routes, share=share)),
        )
        async with load_on(gateway, 8) as load:
            await until(lambda: load.whole >= CANARY_REQUESTS)
        asked = [len(engine.bodies) for _, engine in made]
        # Five standard deviations of so many independent choices.
        assert abs(asked[3] / sum(asked) - 0.2) < 5 * (0.2 * 0.8 / sum(asked)) ** 0.5
        assert min(asked[:3]) > 0.2 * sum(asked)

        await gateway.applied(
            gateway.publish_routes(gateway.endpoint(*routes[:3], share=share)),
        )
        async with load_on(gateway, 8) as rest:
            await until(lambda: rest.whole >= 100)
        assert len(made[3][1].bodies) == asked[3]
        await gateway.applied(
            gateway.publish_routes(
                gateway.endpoint(routes[3], share=TrafficShare(version=8, percent=0))
            ),
        )
        async with load_on(gateway, 2) as last:
            await until(lambda: last.whole >= 20)
        assert load.faults == rest.faults == last.faults == []


async def test_replicas_stopped_without_a_drain_are_seen_as_cuts(tmp_path):
    """The control of the test above: its callers do notice what goes wrong."""
    async with started(tmp_path) as gateway:
        engine = gateway.engine("r0", tokens=50, pause_s=0.02)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(running(engine))
            await gateway.applied(
                gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            )
            async with load_on(gateway, 4) as load:
                await until(lambda: engine.open_now == 4 and load.whole > 0)
                await stack.aclose()
                await until(lambda: bool(load.faults))
        assert any("answer_cut" in fault for fault in load.faults)


async def test_a_killed_worker_is_replaced_and_its_counts_are_gone(tmp_path):
    async with started(tmp_path, workers=2) as gateway:
        engine = gateway.engine("r0", mode="silent")
        async with (
            running(engine) as url,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        ):
            routed = gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            await gateway.applied(routed)
            load = Load(session, gateway.url)
            waiting = [asyncio.create_task(load.one()) for _ in range(8)]
            await until(lambda: gateway.view.in_flight(0) == 8)
            pids = {ack.pid for ack in gateway.view.workers()}
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await asyncio.gather(*waiting)
            assert len(load.faults) == 8
            await until(lambda: gateway.log.count("gateway.listening") == 4, gateway)
            await gateway.applied(routed)
            assert gateway.view.in_flight(0) == 0
            assert not pids & {ack.pid for ack in gateway.view.workers()}
            engine.mode = "ok"
            await load.one()
            assert load.whole == 1


async def test_sigterm_lets_streams_finish_and_takes_no_new_ones(tmp_path):
    async with started(tmp_path) as gateway:
        engine = gateway.engine("r0", tokens=20, pause_s=0.05)
        async with (
            running(engine) as url,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        ):
            await gateway.applied(
                gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            )
            load = Load(session, gateway.url)
            streams = [asyncio.create_task(load.one()) for _ in range(5)]
            await until(lambda: engine.open_now == 5)
            gateway.process.terminate()
            await until(lambda: "gateway.draining" in gateway.log)
            with pytest.raises(aiohttp.ClientConnectorError):
                async with aiohttp.ClientSession() as fresh, fresh.get(gateway.url):
                    pass
            await asyncio.gather(*streams)
            assert (load.whole, load.faults) == (5, [])
            assert await asyncio.to_thread(gateway.process.wait, START_S) == 0
            assert gateway.view.workers() == []


async def test_the_drain_at_shutdown_has_an_end(tmp_path):
    async with started(tmp_path, arguments=("--drain-s", "0.5")) as gateway:
        engine = gateway.engine("r0", mode="silent")
        async with (
            running(engine) as url,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        ):
            await gateway.applied(
                gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            )
            waiting = asyncio.create_task(Load(session, gateway.url).one())
            await until(lambda: engine.open_now == 1)
            gateway.process.terminate()
            assert await asyncio.to_thread(gateway.process.wait, 8.0) == 0
            await waiting


async def test_a_killed_parent_is_followed_by_a_new_one_while_old_streams_finish(tmp_path):
    """The old workers stop listening, finish their streams in their own columns, and end."""
    async with started(tmp_path, workers=2) as gateway:
        engine = gateway.engine("r0", mode="stall")
        async with (
            running(engine) as url,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        ):
            await gateway.applied(
                gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            )
            load = Load(session, gateway.url)
            streams = [asyncio.create_task(load.one()) for _ in range(4)]
            await until(lambda: gateway.view.in_flight(0) == 4)
            old = {ack.pid for ack in gateway.view.workers()}
            gateway.process.kill()
            gateway.process.wait()
            await gateway.start(gateway.port)
            assert gateway.view.in_flight(0) == 4
            assert len({ack.pid for ack in gateway.view.workers()} - old) == 2
            engine.released.set()
            await asyncio.gather(*streams)
            assert (load.whole, load.faults) == (4, [])
            await until(lambda: not old & {ack.pid for ack in gateway.view.workers()})
            assert gateway.view.in_flight(0) == 0


async def test_a_request_ends_at_its_deadline(tmp_path):
    async with started(tmp_path, arguments=("--request-max-s", "1")) as gateway:
        engine = gateway.engine("r0", mode="stall", pause_s=0.02)
        async with (
            running(engine) as url,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        ):
            await gateway.applied(
                gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            )
            load = Load(session, gateway.url)
            await load.one()
            engine.mode = "silent"
            await load.one()
        assert len(load.faults) == 2
        assert all("deadline_exceeded" in fault for fault in load.faults)


async def test_a_stream_that_never_falls_silent_ends_at_its_deadline(tmp_path):
    async with started(tmp_path, arguments=("--request-max-s", "1.5")) as gateway:
        engine = gateway.engine("r0", tokens=200, pause_s=0.02)
        load = await asked(gateway, engine)
    assert [fault for fault in load.faults if "deadline_exceeded" in fault] == load.faults != []


async def test_only_a_stream_whose_engine_says_nothing_for_long_is_ended(tmp_path):
    async with started(tmp_path, arguments=("--stream-idle-s", "2")) as gateway:
        slow = await asked(gateway, gateway.engine("r0", tokens=3, pause_s=1.2))
        assert (slow.whole, slow.faults) == (1, [])
        began_s = time.monotonic()
        silent = await asked(gateway, gateway.engine("r1", mode="stall"))
        assert 2.0 <= time.monotonic() - began_s < 8.0
    assert [fault for fault in silent.faults if "deadline_exceeded" in fault] == silent.faults != []


async def asked(gateway: GatewayProcess, engine: StubEngine) -> Load:
    """One stream of this engine."""
    async with (
        running(engine) as url,
        aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
    ):
        name = engine.served_name.partition(".")[0]
        replica = gateway.replica(name, url, slot=0)
        await gateway.applied(gateway.publish_routes(gateway.endpoint(replica)))
        load = Load(session, gateway.url)
        await load.one()
        return load


def refused(command: list[str]) -> str:
    source = str(Path(weighbridge.__file__).parents[1])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 78
    return done.stderr


async def test_a_second_gateway_is_told_why_it_cannot_start(tmp_path):
    async with started(tmp_path) as gateway:
        same_data = await asyncio.to_thread(refused, gateway.command())
        assert same_data.count("\n") == 1
        assert "Another gateway already serves from" in same_data
        other = GatewayProcess(tmp_path / "other")
        same_port = await asyncio.to_thread(refused, other.command(gateway.port))
        assert same_port.count("\n") == 1
        assert f"Port {gateway.port} on 127.0.0.1 is in use" in same_port


async def test_a_port_of_another_program_is_refused(tmp_path):
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        other = GatewayProcess(tmp_path / "data")
        said = await asyncio.to_thread(refused, other.command(port))
    assert said.count("\n") == 1
    assert f"Port {port} on 127.0.0.1 is in use by another program" in said


async def test_a_worker_alone_is_refused():
    said = await asyncio.to_thread(refused, [sys.executable, "-m", "weighbridge.gateway.worker"])
    assert "python -m weighbridge.gateway" in said
