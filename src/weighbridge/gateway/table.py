"""The tables a worker decides by: endpoints and keys, looked up in memory; built from snapshots, never changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from weighbridge.routing.model import (
    EMPTY_KEYS,
    EMPTY_ROUTES,
    EndpointRoute,
    KeyEntry,
    KeyTable,
    RouteTable,
)

CALLERS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Tables:
    """One generation of routes and one of keys, as lookups."""

    routes_generation: int
    keys_generation: int
    endpoints: Mapping[str, EndpointRoute]
    keys: Mapping[bytes, KeyEntry]
    callers: dict[str, KeyEntry] = field(default_factory=dict, repr=False, compare=False)
    """Keys that never expire, by the Authorization headers that were found right under this key table, so that few are
    hashed again.
    """

    def remember(self, authorization: str, key: KeyEntry) -> None:
        """The header was found right; nothing where its key will expire."""
        if key.expires_unix_s is not None:
            return
        if len(self.callers) >= CALLERS_MAX:
            self.callers.clear()
        self.callers[authorization] = key

    def with_routes(self, table: RouteTable) -> "Tables":
        return Tables(
            table.generation,
            self.keys_generation,
            {endpoint.endpoint_id: endpoint for endpoint in table.endpoints},
            self.keys,
            self.callers,
        )

    def with_keys(self, table: KeyTable) -> "Tables":
        """Raises ValueError for a digest that is not hex."""
        return Tables(
            self.routes_generation,
            table.generation,
            self.endpoints,
            {bytes.fromhex(entry.digest): entry for entry in table.keys},
        )

    def endpoint(self, endpoint_id: str, org_id: str) -> EndpointRoute | None:
        """None for an endpoint of another org and for one that never served, as for no endpoint (T2)."""
        endpoint = self.endpoints.get(endpoint_id)
        if endpoint is None or endpoint.org_id != org_id or not endpoint.deployed:
            return None
        return endpoint

    def public_endpoints(self) -> Sequence[EndpointRoute]:
        """Those that anybody may know of, by id."""
        shown = (e for e in self.endpoints.values() if e.public and e.deployed)
        return sorted(shown, key=lambda endpoint: endpoint.endpoint_id)

    def endpoints_of(self, org_id: str) -> Sequence[EndpointRoute]:
        """Those the org's callers may name, by id."""
        visible = (e for e in self.endpoints.values() if e.org_id == org_id and e.deployed)
        return sorted(visible, key=lambda endpoint: endpoint.endpoint_id)


EMPTY_TABLES: Final = Tables(0, 0, {}, {}).with_routes(EMPTY_ROUTES).with_keys(EMPTY_KEYS)


@dataclass(slots=True)
class CurrentTables:
    """The one reference that is swapped when a newer snapshot is applied; the owner is `snapshots`."""

    tables: Tables = field(default=EMPTY_TABLES)
