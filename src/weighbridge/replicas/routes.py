"""Publish what the gateways need: the table of ready replicas and the table of keys, each with its generation.

A table is committed with its generation, for gateways on other hosts; then written to the file that this
host's gateway reads; then the replicas' rows say so. So a crash in between leaves tables newer than the rows,
never rows that promise a table no gateway can have: the next pass, of whichever controller, finds that the
table says what the rows want, makes its file the same, and notes the generation; or publishes a higher one.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from weighbridge.accounts import service as accounts
from weighbridge.clock import Clock
from weighbridge.control.wake import Wake
from weighbridge.engines.base import Engine, EngineCapabilities, served_name
from weighbridge.replicas import routes_store, store
from weighbridge.replicas.routes_store import RoutedEndpoint, RoutedReplica
from weighbridge.routing import published
from weighbridge.routing.files import SnapshotFile
from weighbridge.routing.hosts.identity import place
from weighbridge.routing.model import EndpointRoute, KeyTable, ReplicaRoute, RouteTable, Table
from weighbridge.routing.options import hold_of
from weighbridge.routing.published import KEYS, ROUTES, Head, Published
from weighbridge.settings import DataDir
from weighbridge.storage import lease
from weighbridge.storage.database import Database

log = structlog.get_logger()

IDLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Seal:
    """What goes with every table: for whom it is good."""

    place: str
    pepper_mark: str


class RoutesPublisher:
    """Publishes routes and keys when their content changes; wakes the replicas reconciler, and `tell`s other hosts."""

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
        pepper_mark: str = "",
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        self._hold_s = hold_s
        self._database = database
        self._clock = clock
        self._wake = wake
        self._engines = engines
        self._lease_of = lease_of
        self._tell = tell
        self._seal = Seal(place(), pepper_mark)
        self._routes = SnapshotFile(paths.routes_file, RouteTable)
        self._keys = SnapshotFile(paths.keys_file, KeyTable)
        self._newest_routes = Published(ROUTES, RouteTable)
        self._newest_keys = Published(KEYS, KeyTable)

    async def reconcile(self) -> float:
        """One pass; the period finds what a lost wake-up missed."""
        async with self._database.begin() as tx:
            await lease.require(tx, self._lease_of())
            replicas = await routes_store.replicas(tx)
            endpoints = await routes_store.endpoints(tx)
            keys = await accounts.key_table(tx, self._clock.now())
            heads = await published.heads(tx)
            routes_head, keys_head = heads.get(ROUTES), heads.get(KEYS)
            newest_routes = await self._newest_routes.read(tx, routes_head)
            newest_keys = await self._newest_keys.read(tx, keys_head)
        content = self._table(endpoints, replicas)
        routes = await self._publish(
            self._newest_routes,
            self._routes,
            newest_routes if self._good(routes_head) else None,
            lambda number: RouteTable(generation=number, endpoints=content),
        )
        await self._note(routes, replicas)
        await self._publish(
            self._newest_keys,
            self._keys,
            newest_keys if self._good(keys_head) else None,
            lambda number: KeyTable(generation=number, keys=keys),
        )
        return IDLE_S

    def _good(self, head: Head | None) -> bool:
        """Whether a table says for whom it is good as this controller would."""
        return head is not None and self._seal == Seal(head.place, head.pepper_mark)

    async def _publish(
        self,
        newest: Published[Table],
        file: SnapshotFile[Table],
        table: Table | None,
        make: Callable[[int], Table],
    ) -> Table:
        """The table with this content, in the database and in the file; `table` is what the database has."""
        there = await file.read()
        above = there.generation if there is not None else 0
        if table is None or table.generation < above or table != make(table.generation):
            async with self._database.begin() as tx:
                await lease.require(tx, self._lease_of())
                table = make(await routes_store.next_generation(tx, newest.name, above))
                await newest.put(
                    tx, table, place=self._seal.place, pepper_mark=self._seal.pepper_mark
                )
            self._tell()
            log.info(
                "table.published", table=newest.name, generation=table.generation, **_size(table)
            )
        if there is None or there.generation != table.generation:
            await file.write(table)
        return table

    async def _note(self, table: RouteTable, replicas: Sequence[RoutedReplica]) -> None:
        """Record the first generation that names a replica, and the first that no longer does."""
        named = {replica.replica_id for route in table.endpoints for replica in route.replicas}
        routed = [r.id for r in replicas if r.ready and not r.noted and r.id in named]
        unrouted = [r.id for r in replicas if not r.ready and not r.noted]
        if routed or unrouted:
            async with self._database.begin() as tx:
                await lease.require(tx, self._lease_of())
                await store.record_routed(tx, table.generation, routed=routed, unrouted=unrouted)
            self._wake("replicas")

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


def _size(table: RouteTable | KeyTable) -> Mapping[str, int]:
    if isinstance(table, KeyTable):
        return {"keys": len(table.keys)}
    replicas = sum(len(endpoint.replicas) for endpoint in table.endpoints)
    return {"endpoints": len(table.endpoints), "replicas": replicas}


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
