"""A toy machine under the real reconcilers, on the real database, files and acks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from toys.gateway import ToyGateway
from toys.machine import Machine
from toys.node import ToyEngine, ToyRuntime, ToyStore
from toys.rows import furnish
from weighbridge.settings import Settings
from weighbridge.storage.database import Database


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
