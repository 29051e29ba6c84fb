"""One gateway follows another on the same port, under load: no request fails, and no stream is cut."""

import asyncio
import json
import os
import signal
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from test_gateway_process import Load, load_on, refused, started

import weighbridge
from gateway_process import KEY, START_S, GatewayProcess, until
from stub_engine import running
from weighbridge.cli.demo.process import free_ports
from weighbridge.gateway.succession.handover import ask

pytestmark = pytest.mark.system

CALLERS = 24
"""That keep their connection, and as many that open one for each request."""


async def follow(gateway: GatewayProcess, *arguments: str) -> subprocess.Popen:
    """Start another gateway that takes over; the one before, once it has been told."""
    before, told = gateway.process, gateway.log.count("gateway.took_over")
    source = str(Path(weighbridge.__file__).parents[1])
    command = [*gateway.command(gateway.port), "--take-over", *arguments]
    with (gateway.root / "gateway.log").open("ab") as output:
        gateway.process = subprocess.Popen(  # noqa: ASYNC220 - starts, never waits
            command, stderr=output, env={**os.environ, "PYTHONPATH": source}
        )
    await until(lambda: gateway.log.count("gateway.took_over") > told, gateway)
    return before


async def test_gateways_follow_each_other_under_load_without_a_failed_request(tmp_path):
    async with started(tmp_path, workers=2) as gateway, AsyncExitStack() as stack:
        engine = gateway.engine("r0", tokens=5, pause_s=0.005)
        url = await stack.enter_async_context(running(engine))
        routed = gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
        await gateway.applied(routed)
        headers = {"authorization": f"Bearer {KEY}"}
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        fresh = await stack.enter_async_context(
            aiohttp.ClientSession(headers=headers, connector=connector)
        )
        once = Load(fresh, gateway.url)
        async with load_on(gateway, CALLERS) as kept, asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(once.caller())
            try:
                for workers in (1, 3, 2):  # fewer than there are sockets, and more
                    enough = kept.whole + CALLERS, once.whole + CALLERS
                    await until(lambda e=enough: kept.whole > e[0] and once.whole > e[1])
                    before = await follow(gateway, "--workers", str(workers))
                    assert await asyncio.to_thread(before.wait, START_S) == 0
                    await until(lambda n=workers: len(gateway.view.workers()) == n)
                enough = kept.whole + CALLERS, once.whole + CALLERS
                await until(lambda e=enough: kept.whole > e[0] and once.whole > e[1])
            finally:
                once.stopping = True
        assert kept.faults == once.faults == []
    assert gateway.view.workers() == []


async def test_a_stream_goes_on_at_the_old_gateway_while_the_new_one_serves(tmp_path):
    """Also when it takes longer than a gateway that is stopped would give it."""
    async with started(tmp_path, arguments=("--drain-s", "0.1")) as gateway:
        engine = gateway.engine("r0", mode="stall")
        async with (
            running(engine) as url,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        ):
            routed = gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            await gateway.applied(routed)
            load = Load(session, gateway.url)
            stream = asyncio.create_task(load.one())
            await until(lambda: gateway.view.in_flight(0) == 1)
            before = await follow(gateway)
            facts = json.loads((gateway.paths.run / "gateway.json").read_text())
            assert facts["pid"] == gateway.process.pid
            # Both are asked for the acks of a new table, and both keep theirs fresh.
            assert len(gateway.view.workers()) == 2
            await gateway.applied(
                gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            )
            assert before.poll() is None
            assert not stream.done()
            engine.released.set()
            await stream
            assert (load.whole, load.faults) == (1, [])
            await session.close()  # an idle connection may be used once more
            await until(lambda: len(gateway.view.workers()) == 1)
            assert await asyncio.to_thread(before.wait, START_S) == 0


async def test_a_successor_that_dies_has_changed_nothing(tmp_path):
    async with started(tmp_path) as gateway:
        engine = gateway.engine("r0", tokens=2)
        async with running(engine) as url:
            routed = gateway.publish_routes(gateway.endpoint(gateway.replica("r0", url, slot=0)))
            await gateway.applied(routed)
            inheritance = await asyncio.to_thread(ask, gateway.paths.run)
            assert len(inheritance.columns) == 1
            inheritance.close()
            (worker,) = gateway.view.workers()
            os.kill(worker.pid, signal.SIGKILL)
            await until(lambda: gateway.log.count("gateway.listening") == 2, gateway)
            async with load_on(gateway, 4) as load:
                await until(lambda: load.whole > 8)
            assert load.faults == []
            before = await follow(gateway)
            assert await asyncio.to_thread(before.wait, START_S) == 0


async def test_without_a_gateway_there_a_successor_starts_and_one_that_hangs_is_told(tmp_path):
    async with started(tmp_path, arguments=("--take-over",)) as gateway:
        gateway.process.send_signal(signal.SIGSTOP)
        try:
            said = await asyncio.to_thread(refused, [*gateway.command(gateway.port), "--take-over"])
        finally:
            gateway.process.send_signal(signal.SIGCONT)
        assert "could be taken over" in said
        async with (
            aiohttp.ClientSession() as session,
            session.get(gateway.url + "/v1/models") as answer,
        ):
            assert answer.status == 403


async def test_a_successor_may_choose_another_port(tmp_path):
    async with started(tmp_path) as gateway:
        old = gateway.port
        (free,) = free_ports(1)
        gateway.port = free
        before = await follow(gateway)
        assert await asyncio.to_thread(before.wait, START_S) == 0
        assert json.loads((gateway.paths.run / "gateway.json").read_text())["port"] == free
        async with aiohttp.ClientSession() as session:
            async with session.get(gateway.url + "/v1/models") as answer:
                assert answer.status == 403
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{old}/v1/models")
