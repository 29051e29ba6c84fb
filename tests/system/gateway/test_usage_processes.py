"""Limits and usage over real gateway workers: shared between two, killed, restarted."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import pytest
from sqlalchemy import func, select

from gateway_process import ENDPOINT, KEY, ORG, GatewayProcess, until
from stub_engine import running
from weighbridge.clock import Clock
from weighbridge.routing.limits import UsageLimits
from weighbridge.storage.database import Database
from weighbridge.storage.history_tables import usage_hourly
from weighbridge.usage.reconciler import UsageReconciler
from weighbridge.usage.spool import SpoolLimits, spools_in

pytestmark = pytest.mark.system
BODY = {"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


@asynccontextmanager
async def gateway_with(
    tmp_path: Path, limits: UsageLimits, **options: object
) -> AsyncIterator[GatewayProcess]:
    """A gateway with one engine and one key of these limits."""
    gateway = GatewayProcess(tmp_path / "data", **options)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(gateway.engine("r1")))
        gateway.publish_keys(msgspec.structs.replace(gateway.key(KEY, ORG), limits=limits))
        gateway.publish_routes(gateway.endpoint(gateway.replica("r1", url, slot=0)))
        try:
            await gateway.start()
            yield gateway
        finally:
            await gateway.stop()


async def ask(gateway: GatewayProcess, times: int, at_once: int = 8) -> Counter[int]:
    """Each request on a connection of its own, so that the workers share them; 0 stands for a cut connection."""
    statuses: Counter[int] = Counter()
    left = iter(range(times))
    headers = {"authorization": f"Bearer {KEY}"}
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(headers=headers, connector=connector) as session,
        asyncio.TaskGroup() as tasks,
    ):

        async def caller() -> None:
            for _ in left:
                try:
                    url = f"{gateway.url}/v1/chat/completions"
                    async with session.post(url, json=BODY) as answer:
                        await answer.read()
                        statuses[answer.status] += 1
                except aiohttp.ClientError:
                    statuses[0] += 1

        for _ in range(at_once):
            tasks.create_task(caller())
    return statuses


async def test_two_workers_hold_one_limit(tmp_path: Path) -> None:
    """At most one request per further worker too many, beside the refill."""
    limit = 40
    async with gateway_with(tmp_path, UsageLimits(requests_minute=limit), workers=2) as gateway:
        began_s = time.monotonic()
        statuses = await ask(gateway, 120)
        refill = (time.monotonic() - began_s) * limit / 60
        assert limit <= statuses[200] <= limit + 1 + refill, (statuses, refill)
        assert statuses[200] + statuses[429] == 120
        await until(lambda: gateway.log.count('"event":"request"') == 120, gateway)
        requests = (line for line in gateway.log.splitlines() if '"event":"request"' in line)
        served = {json.loads(line)["process"] for line in requests}
        assert len(served) == 2


async def test_a_killed_worker_and_a_restart_keep_the_day_s_quota(tmp_path: Path) -> None:
    async with gateway_with(tmp_path, UsageLimits(requests_day=60), workers=2) as gateway:
        assert (await ask(gateway, 30))[200] == 30
        for worker in gateway.view.workers():
            os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: gateway.log.count("gateway.listening") == 4, gateway)
        assert (await ask(gateway, 10))[200] == 10
        await gateway.stop()
        await gateway.start()
        statuses = await ask(gateway, 60)
        # 20 are left; a request each may be too many for the race of two workers, before the end and after it.
        assert 20 <= statuses[200] <= 22, statuses


async def counted(database: Database) -> int:
    async with database.begin() as tx:
        query = select(func.sum(usage_hourly.c.requests)).where(usage_hourly.c.status == 200)
        return int((await tx.execute(query)).scalar_one() or 0)


def served_by_another(gateway: GatewayProcess, killed: int) -> bool:
    """A process that was killed may be seen for a moment still."""
    return any(worker.pid != killed for worker in gateway.view.workers())


async def test_a_kill_loses_at_most_one_batch_of_usage_and_nothing_is_counted_twice(
    tmp_path: Path, database: Database
) -> None:
    async with gateway_with(tmp_path, UsageLimits(), workers=1) as gateway:
        counting = UsageReconciler(database, Clock(), gateway.paths.usage)
        answered = 0
        for _ in range(3):
            asking = asyncio.create_task(ask(gateway, 400, at_once=8))
            await asyncio.sleep(1.5)
            await counting.reconcile()
            (pid,) = (worker.pid for worker in gateway.view.workers())
            os.kill(pid, signal.SIGKILL)
            statuses = await asking
            answered += statuses[200]
            await until(partial(served_by_another, gateway, pid), gateway)
        await gateway.stop()
        await counting.reconcile()
        await counting.reconcile()
        found = await counted(database)
        assert answered - 3 * SpoolLimits().batch_events <= found <= answered + 3 * 8
        assert spools_in(gateway.paths.usage) == []


async def test_an_orderly_stop_loses_no_usage(tmp_path: Path, database: Database) -> None:
    async with gateway_with(tmp_path, UsageLimits(), workers=2) as gateway:
        statuses = await ask(gateway, 100)
        assert statuses == {200: 100}
        await gateway.stop()
        counting = UsageReconciler(database, Clock(), gateway.paths.usage)
        await counting.reconcile()
        assert await counted(database) == 100
        assert spools_in(gateway.paths.usage) == []
