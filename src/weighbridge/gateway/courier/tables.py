"""Tables on their way from the database to the files that a host's workers read."""

from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from weighbridge.errors import SetupError, StaleError
from weighbridge.routing import published
from weighbridge.routing.files import SnapshotFile
from weighbridge.routing.hosts.identity import is_loopback
from weighbridge.routing.model import KeyTable, RouteTable
from weighbridge.routing.published import KEYS, ROUTES, Head, Published
from weighbridge.routing.tokens import load_pepper, pepper_mark
from weighbridge.settings import DataDir
from weighbridge.storage.database import Database, Transaction

log = structlog.get_logger()


class Tables:
    """The host's copies; `routes_generation` and `keys_generation` are what the files have, 0 without one."""

    def __init__(self, database: Database, paths: DataDir, pepper_dir: Path, place: str) -> None:
        self._database = database
        self._pepper_dir = pepper_dir
        self._place = place
        self._routes_file = SnapshotFile(paths.routes_file, RouteTable)
        self._keys_file = SnapshotFile(paths.keys_file, KeyTable)
        self._routes = Published(ROUTES, RouteTable)
        self._keys = Published(KEYS, KeyTable)
        self.routes_generation = 0
        self.keys_generation = 0
        self.slots: frozenset[int] = frozenset()
        """Of the replicas that the file names."""

    async def look_here(self) -> None:
        """Take note of what the files have, whoever wrote them."""
        routes, keys = await self._routes_file.read(), await self._keys_file.read()
        self._note_routes(routes)
        self.keys_generation = 0 if keys is None else keys.generation

    async def admit(self, tx: Transaction) -> None:
        """SetupError where what is published is no good on this host, so that no worker need be started."""
        heads = await published.heads(tx)
        self._check_pepper([head.pepper_mark for head in heads.values()])
        head = heads.get(ROUTES)
        table = await self._routes.read(tx, head)
        if head is None or table is None:
            return
        mine, left_out = reachable(table, head.place, self._place)
        if left_out and not any(endpoint.replicas for endpoint in mine.endpoints):
            raise SetupError(
                "All replicas listen on loopback addresses of another machine, where this one cannot reach them. "
                "Set WEIGHBRIDGE_REPLICA_HOST where they run to an address that this machine reaches.",
                code="replicas_unreachable",
            )

    async def bring(self) -> None:
        """Write what is newer in the database than in the files. OSError where it cannot be written."""
        await self.look_here()
        async with self._database.begin() as tx:
            heads = await published.heads(tx)
            routes_head, keys_head = heads.get(ROUTES), heads.get(KEYS)
            routes = keys = None
            if routes_head is not None and routes_head.generation > self.routes_generation:
                routes = await self._routes.read(tx, routes_head)
            if keys_head is not None and keys_head.generation > self.keys_generation:
                keys = await self._keys.read(tx, keys_head)
        self._check_pepper([head.pepper_mark for head in heads.values()])
        # A controller on this data directory may have written a newer one meanwhile, which is as good.
        if keys is not None:
            with suppress(StaleError):
                await self._keys_file.write(keys)
                self.keys_generation = keys.generation
        if routes is not None and routes_head is not None:
            await self._write_routes(routes, routes_head)

    async def _write_routes(self, table: RouteTable, head: Head) -> None:
        mine, left_out = reachable(table, head.place, self._place)
        if left_out:
            log.error(
                "replicas.unreachable",
                replicas=left_out,
                next_step="set WEIGHBRIDGE_REPLICA_HOST where they run",
            )
        with suppress(StaleError):
            await self._routes_file.write(mine)
            self._note_routes(mine)

    def _note_routes(self, table: RouteTable | None) -> None:
        self.routes_generation = 0 if table is None else table.generation
        self.slots = frozenset(
            replica.slot
            for endpoint in (() if table is None else table.endpoints)
            for replica in endpoint.replicas
        )

    def _check_pepper(self, marks: list[str]) -> None:
        """Under another pepper each key would be refused, and each replica would refuse us."""
        if not marks:
            return
        there = (self._pepper_dir / "pepper").exists()
        if not there or any(mark != pepper_mark(load_pepper(self._pepper_dir)) for mark in marks):
            what = "is not the control plane's" if there else "is missing"
            raise SetupError(
                f"{self._pepper_dir / 'pepper'} {what}: copy secrets/pepper from the data directory of the "
                "control plane, for this user alone (mode 600).",
                code="pepper_differs",
            )


def reachable(table: RouteTable, there: str, here: str) -> tuple[RouteTable, int]:
    """The table without the replicas whose loopback addresses are another machine's, and how many those are."""
    if there == here:
        return table, 0
    endpoints = tuple(
        msgspec.structs.replace(
            endpoint, replicas=tuple(r for r in endpoint.replicas if not is_loopback(r.url))
        )
        for endpoint in table.endpoints
    )
    before = sum(len(endpoint.replicas) for endpoint in table.endpoints)
    after = sum(len(endpoint.replicas) for endpoint in endpoints)
    return RouteTable(table.generation, endpoints), before - after
