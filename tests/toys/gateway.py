"""A gateway that only acknowledges tables: the snapshot files and the shared acks are the real ones."""

import asyncio
import os

from weighbridge.routing.acks import GatewayView, WorkerColumn, open_acks
from weighbridge.routing.files import read_snapshot
from weighbridge.routing.model import RouteTable
from weighbridge.settings import Settings


class ToyGateway:
    """One worker that takes each table as it appears; remembers how many replicas it could route to."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.paths.routes_file
        settings.paths.run.mkdir(parents=True, exist_ok=True)
        memory = open_acks(settings.paths.acks_file)
        self.column = WorkerColumn(memory, 0, os.getpid())
        self.view = GatewayView(memory)
        self.generations: list[int] = []
        self.routed: list[int] = []
        self.versions: list[set[int]] = []

    async def run(self) -> None:
        while True:
            table = read_snapshot(self._path, RouteTable)
            if table is not None and table.generation not in self.generations[-1:]:
                self.generations.append(table.generation)
                routes = [r for e in table.endpoints for r in e.replicas]
                self.routed.append(len(routes))
                self.versions.append({r.version for r in routes})
                self.column.acknowledge(table.generation, 0)
            await asyncio.sleep(0.005)
