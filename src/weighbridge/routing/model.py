"""The routing table and the key table as values, and their one encoding (JSON)."""

from typing import TypeVar

import msgspec

from weighbridge.routing.limits import NO_LIMITS, UsageLimits
from weighbridge.routing.options import Affinity

SLOTS_MAX = 16_384
"""Replica slots of the shared in-flight counts; also the most replicas one installation runs."""


class ReplicaRoute(msgspec.Struct, frozen=True):
    """A ready replica as the gateway needs it; its token is derived, not carried (`tokens`)."""

    replica_id: str
    slot: int
    url: str
    incarnation: str
    served_name: str
    digest: str
    version: int
    fingerprint: str


class TrafficShare(msgspec.Struct, frozen=True):
    """The percentage of requests that go to one version while it has a ready replica; the rest go to others."""

    version: int
    percent: int


class EndpointRoute(msgspec.Struct, frozen=True):
    """An endpoint and its ready replicas.

    `deployed` is false until some deployment has had a ready replica: then the endpoint's name is unknown to
    callers (404); afterwards, without a ready replica, it is merely unavailable (503).
    The capabilities are the engine's (`EngineCapabilities`): what it cannot honour, the gateway refuses.
    `in_flight_max` is the most requests at once per ready replica, those that wait in it included; beyond
    it callers wait for their turn. `limits` are of the endpoint, over all its keys.
    `affinity` and `public` are as in `GatewayOptions`; `context_tokens` is the engine's, where it is set.
    While no replica is ready, requests are held for `hold_s` at most; 0: they are refused at once. `start_s` is
    what starts of its replicas took (0: not known), `ready_expected_unix_s` when the one that starts now should be
    ready. A `share` splits the requests between the versions of its replicas.
    """

    endpoint_id: str
    org_id: str
    org_name: str
    arch_id: str
    created_unix_s: int
    deployed: bool
    rolling_out: bool
    replicas: tuple[ReplicaRoute, ...]
    choices_max: int = 1
    logprobs: bool = True
    json_schema: bool = True
    tools: bool = False
    reasoning: bool = False
    min_tokens: bool = False
    in_flight_max: int = 256
    limits: UsageLimits = NO_LIMITS
    affinity: Affinity = Affinity.OFF
    public: bool = False
    context_tokens: int | None = None
    hold_s: float = 0.0
    start_s: float = 0.0
    ready_expected_unix_s: float | None = None
    share: TrafficShare | None = None


class RouteTable(msgspec.Struct, frozen=True):
    """All endpoints at one generation; generations only grow, also across restarts."""

    generation: int
    endpoints: tuple[EndpointRoute, ...]


class KeyEntry(msgspec.Struct, frozen=True):
    """An inference-capable key: `digest` is hex HMAC-SHA-256 of the key under the pepper (T3)."""

    digest: str
    key_id: str
    org_id: str
    expires_unix_s: float | None = None
    limits: UsageLimits = NO_LIMITS


class KeyTable(msgspec.Struct, frozen=True):
    generation: int
    keys: tuple[KeyEntry, ...]


Table = TypeVar("Table", RouteTable, KeyTable)

EMPTY_ROUTES = RouteTable(generation=0, endpoints=())
EMPTY_KEYS = KeyTable(generation=0, keys=())
