"""Publish what the gateways need: the table of ready replicas and the table of keys, as files with generations.

A generation is committed before its file is written, and a file before the rows say so. So a crash in between
leaves a file newer than the rows, never rows that promise a table no gateway can have: the next pass reads
the file, finds that it says what the rows want, and notes its generation; or finds that it does not, and
publishes a higher one.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

from weighbridge.accounts import service as accounts
from weighbridge.clock import Clock
from weighbridge.control.wake import Wake
from weighbridge.engines.base import Engine, EngineCapabilities, served_name
from weighbridge.replicas import routes_store, store
from weighbridge.replicas.routes_store import RoutedEndpoint, RoutedReplica
from weighbridge.routing.files import publish_snapshot, read_snapshot
from weighbridge.routing.model import EndpointRoute, KeyTable, ReplicaRoute, RouteTable
from weighbridge.routing.options import hold_of
from weighbridge.settings import DataDir
from weighbridge.storage import lease
from weighbridge.storage.database import Database

log = structlog.get_logger()

IDLE_S = 5.0
Table = TypeVar("Table", RouteTable, KeyTable)


class Snapshot(Generic[Table]):
    """A table's file, and what it says as far as this process knows."""

    def __init__(self, path: Path, kind: type[Table]) -> None:
        self._path = path
        self._kind: type[Table] = kind
        self._seen: tuple[int, int] | None = None
        self._table: Table | None = None

    async def read(self) -> Table | None:
        """What the file says; it is read again only when it is not the file that was seen last."""
        return await asyncio.to_thread(self._read)

    async def write(self, table: Table) -> None:
        """StaleError when another controller has published since `read`."""
        await asyncio.to_thread(self._write, table)

    def _read(self) -> Table | None:
        identity = self._identity()
        if identity is None or identity != self._seen:
            try:
                self._table = read_snapshot(self._path, self._kind)
            except msgspec.MsgspecError as error:
                log.warning("snapshot.unreadable", path=self._path.name, reason=str(error))
                self._table = None
            self._seen = identity
        return self._table

    def _write(self, table: Table) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        publish_snapshot(self._path, table, table.generation)
        self._seen, self._table = self._identity(), table

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


class RoutesPublisher:
    """Writes `routes.json` and `keys.json` when their content changes; wakes the replicas reconciler."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        wake: Wake,
        paths: DataDir,
        *,
        engines: Mapping[str, Engine],
        lease_of: Callable[[], lease.Lease],
        hold_s: float,
    ) -> None:
        self._hold_s = hold_s
        self._database = database
        self._clock = clock
        self._wake = wake
        self._engines = engines
        self._lease_of = lease_of
        self._routes = Snapshot(paths.routes_file, RouteTable)
        self._keys = Snapshot(paths.keys_file, KeyTable)

    async def reconcile(self) -> float:
        """One pass; the period finds what a lost wake-up missed."""
        async with self._database.begin() as tx:
            await lease.require(tx, self._lease_of())
            replicas = await routes_store.replicas(tx)
            endpoints = await routes_store.endpoints(tx)
            keys = await accounts.key_table(tx, self._clock.now())
        await self._publish_routes(self._table(endpoints, replicas), replicas)
        old_keys = await self._keys.read()
        if old_keys is None or old_keys.keys != keys:
            generation = await self._next("keys", old_keys.generation if old_keys else 0)
            await self._keys.write(KeyTable(generation=generation, keys=keys))
            log.info("keys.published", generation=generation, keys=len(keys))
        return IDLE_S

    async def _publish_routes(
        self, content: tuple[EndpointRoute, ...], replicas: Sequence[RoutedReplica]
    ) -> None:
        table = await self._routes.read()
        if table is None or table.endpoints != content:
            generation = await self._next("routes", table.generation if table else 0)
            table = RouteTable(generation=generation, endpoints=content)
            await self._routes.write(table)
            log.info(
                "routes.published",
                generation=generation,
                endpoints=len(content),
                replicas=sum(len(endpoint.replicas) for endpoint in content),
            )
        named = {replica.replica_id for route in content for replica in route.replicas}
        routed = [r.id for r in replicas if r.ready and not r.noted and r.id in named]
        unrouted = [r.id for r in replicas if not r.ready and not r.noted]
        if routed or unrouted:
            async with self._database.begin() as tx:
                await lease.require(tx, self._lease_of())
                await store.record_routed(tx, table.generation, routed=routed, unrouted=unrouted)
            self._wake("replicas")

    async def _next(self, name: str, above: int) -> int:
        async with self._database.begin() as tx:
            await lease.require(tx, self._lease_of())
            return await routes_store.next_generation(tx, name, above)

    def _table(
        self, endpoints: Sequence[RoutedEndpoint], replicas: Sequence[RoutedReplica]
    ) -> tuple[EndpointRoute, ...]:
        ready: defaultdict[str, list[ReplicaRoute]] = defaultdict(list)
        for replica in replicas:
            if replica.ready:
                ready[replica.endpoint_id].append(_replica_route(replica))
        return tuple(
            _endpoint_route(
                endpoint, tuple(ready[endpoint.id]), self._capabilities(endpoint), self._hold_s
            )
            for endpoint in endpoints
        )

    def _capabilities(self, endpoint: RoutedEndpoint) -> EngineCapabilities:
        engine = self._engines.get(endpoint.engine.engine)
        return EngineCapabilities() if engine is None else engine.capabilities(endpoint.engine)


def _replica_route(replica: RoutedReplica) -> ReplicaRoute:
    return ReplicaRoute(
        replica_id=replica.id,
        slot=replica.slot,
        url=replica.url,
        incarnation=replica.incarnation,
        served_name=served_name(replica.id, replica.digest),
        digest=replica.digest,
        version=replica.version_number,
        fingerprint=replica.fingerprint,
    )


def _endpoint_route(
    endpoint: RoutedEndpoint,
    replicas: tuple[ReplicaRoute, ...],
    can: EngineCapabilities,
    hold_s: float,
) -> EndpointRoute:
    # Where nobody will bring a replica back there is nothing to wait for.
    held = endpoint.restored and endpoint.start_s > 0
    return EndpointRoute(
        endpoint_id=endpoint.id,
        org_id=endpoint.org_id,
        org_name=endpoint.org_name,
        arch_id=endpoint.arch_id,
        created_unix_s=endpoint.created_unix_s,
        deployed=endpoint.deployed,
        rolling_out=endpoint.rolling_out,
        replicas=replicas,
        choices_max=can.choices_max,
        logprobs=can.logprobs,
        json_schema=can.json_schema,
        tools=can.tools,
        reasoning=can.reasoning,
        min_tokens=can.min_tokens,
        limits=endpoint.limits,
        share=endpoint.share,
        affinity=endpoint.gateway.affinity,
        public=endpoint.gateway.public,
        context_tokens=endpoint.engine.context_tokens,
        hold_s=hold_of(endpoint.gateway, endpoint.start_s, hold_s) if held else 0.0,
        start_s=endpoint.start_s,
        ready_expected_unix_s=endpoint.ready_expected_unix_s,
    )
