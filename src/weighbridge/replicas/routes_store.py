"""SQL of the routing table: endpoints with their ready replicas, and its generations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import msgspec
from sqlalchemy import text

from weighbridge.engines.base import EngineSettings
from weighbridge.routing.limits import UsageLimits, read_limits
from weighbridge.routing.model import TrafficShare
from weighbridge.routing.options import GatewayOptions, read_options
from weighbridge.storage.database import Transaction

STARTS_MAX = 5
"""Starts of an endpoint's replicas that say how long the next takes."""


@dataclass(frozen=True, slots=True)
class RoutedReplica:
    """A replica that the table must name (`ready`), or must no longer."""

    id: str
    endpoint_id: str
    ready: bool
    noted: bool
    """Whether the generation that first (no longer) named it is recorded."""
    slot: int
    url: str
    incarnation: str
    digest: str
    version_number: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class RoutedEndpoint:
    id: str
    org_id: str
    org_name: str
    arch_id: str
    created_unix_s: int
    deployed: bool
    rolling_out: bool
    share: TrafficShare | None
    engine: EngineSettings
    limits: UsageLimits
    gateway: GatewayOptions
    start_s: float
    """The median of its replicas' last starts, from their creation until they were ready; 0 where there was none."""
    ready_expected_unix_s: float | None
    """When the replica that starts should be ready, by that; None where one is ready, or none starts."""
    restored: bool
    """Whether a replica that is missing will be replaced."""


_ENDPOINTS = text(
    """
    SELECT e.id, e.org_id, o.name AS org_name, e.arch_id, a.engine, e.limits,
           extract(epoch FROM e.created_at)::bigint AS created_unix_s,
           -- from the first rollout on: while it runs, callers are told to wait (wire.md 8 U)
           e.base_deployment_id IS NOT NULL OR d.id IS NOT NULL OR EXISTS (
               SELECT 1 FROM replicas r
               WHERE r.endpoint_id = e.id AND r.ready_at IS NOT NULL
           ) AS deployed,
           d.id IS NOT NULL AS rolling_out,
           d.version_number AS share_version,
           -- a canary that goes back is asked only where nobody else is ready
           CASE WHEN d.promoted_at IS NOT NULL OR d.traffic_percent IS NULL THEN NULL
                WHEN d.status = 'rolling_back' THEN 0
                ELSE d.traffic_percent
           END AS share_percent,
           e.gateway,
           coalesce(starts.median_s, 0) AS start_s,
           extract(epoch FROM starting.began) + coalesce(starts.median_s, 0) AS ready_expected_unix_s,
           e.base_deployment_id IS NOT NULL OR d.id IS NOT NULL AS restored
    FROM endpoints e
    LEFT JOIN deployments d
           ON d.endpoint_id = e.id AND d.status IN ('in_progress', 'rolling_back')
    CROSS JOIN LATERAL (
        SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY took_s) AS median_s
        FROM (
            SELECT round(extract(epoch FROM ready_at - created_at), 1)::float8 AS took_s
            FROM replicas r
            WHERE r.endpoint_id = e.id AND r.ready_at IS NOT NULL
            ORDER BY r.ready_at DESC
            LIMIT :starts_max
        ) last
    ) starts
    LEFT JOIN LATERAL (
        SELECT min(r.created_at) FILTER (WHERE r.state IN ('pending', 'starting', 'warming')) AS began
        FROM replicas r
        WHERE r.endpoint_id = e.id
        HAVING NOT bool_or(r.state = 'ready')
    ) starting ON true
    JOIN orgs o ON o.id = e.org_id
    JOIN architectures a ON a.id = e.arch_id
    WHERE e.deleted_at IS NULL
    ORDER BY e.id
    """
)

_REPLICAS = text(
    """
    SELECT id, endpoint_id, state = 'ready' AS ready,
           CASE state WHEN 'ready' THEN routed_generation ELSE unrouted_generation END
               IS NOT NULL AS noted,
           slot, coalesce(url, '') AS url, coalesce(incarnation, '') AS incarnation,
           digest, version_number, fingerprint
    FROM replicas
    WHERE state = 'ready' OR (state = 'draining' AND unrouted_generation IS NULL)
    ORDER BY endpoint_id, created_at, id
    """
)

_NEXT_GENERATION = text(
    """
    INSERT INTO counters (name, value) VALUES (:name, :above + 1)
    ON CONFLICT (name) DO UPDATE SET value = greatest(counters.value, :above) + 1
    RETURNING value
    """
)


async def endpoints(tx: Transaction) -> Sequence[RoutedEndpoint]:
    rows = await tx.execute(_ENDPOINTS, {"starts_max": STARTS_MAX})
    return [
        RoutedEndpoint(
            id=row.id,
            org_id=row.org_id,
            org_name=row.org_name,
            arch_id=row.arch_id,
            created_unix_s=row.created_unix_s,
            deployed=row.deployed,
            rolling_out=row.rolling_out,
            share=None
            if row.share_percent is None
            else TrafficShare(version=row.share_version, percent=row.share_percent),
            engine=msgspec.convert(row.engine, EngineSettings),
            limits=read_limits(row.limits),
            gateway=read_options(row.gateway),
            start_s=row.start_s,
            ready_expected_unix_s=_or_none(row.ready_expected_unix_s),
            restored=row.restored,
        )
        for row in rows
    ]


async def replicas(tx: Transaction) -> Sequence[RoutedReplica]:
    """Ready ones, and draining ones that wait for the table that leaves them out; one query."""
    rows = await tx.execute(_REPLICAS)
    return [RoutedReplica(*row) for row in rows]


async def next_generation(tx: Transaction, name: str, above: int) -> int:
    """The next value of a counter, also above what a snapshot on disk says: generations only grow."""
    parameters: Mapping[str, object] = {"name": name, "above": above}
    row = (
        await tx.execute(
            _NEXT_GENERATION,
            parameters,
        )
    ).one()
    return int(row.value)


def _or_none(seconds: SupportsFloat | None) -> float | None:
    return None if seconds is None else round(float(seconds), 1)
