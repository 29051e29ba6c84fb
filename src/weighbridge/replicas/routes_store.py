"""SQL of the routing table: endpoints with their ready replicas, and its generations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import text

from weighbridge.engines.base import EngineSettings
from weighbridge.routing.limits import UsageLimits, read_limits
from weighbridge.routing.model import TrafficShare
from weighbridge.storage.database import Transaction


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


async def endpoints(tx: Transaction) -> Sequence[RoutedEndpoint]:
    rows = await tx.execute(
        text(
            """
            SELECT e.id, e.org_id, o.name AS org_name, e.arch_id, a.engine, e.limits,
                   extract(epoch FROM e.created_at)::bigint AS created_unix_s,
                   -- from the first rollout on: while it runs, callers are told to wait (wire.md 8 U)
                   e.base_deployment_id IS NOT NULL OR d.id IS NOT NULL OR EXISTS (
                       SELECT 1 FROM replicas r
                       WHERE r.endpoint_id = e.id AND r.ready_at IS NOT NULL
                   ) AS deployed,
                   d.id IS NOT NULL AS rolling_out, d.version_number AS share_version,
                   -- a canary that goes back is asked only where nobody else is ready
                   CASE WHEN d.promoted_at IS NOT NULL OR d.traffic_percent IS NULL THEN NULL
                        WHEN d.status = 'rolling_back' THEN 0
                        ELSE d.traffic_percent
                   END AS share_percent
            FROM endpoints e
            LEFT JOIN deployments d
                   ON d.endpoint_id = e.id AND d.status IN ('in_progress', 'rolling_back')
            JOIN orgs o ON o.id = e.org_id
            JOIN architectures a ON a.id = e.arch_id
            WHERE e.deleted_at IS NULL
            ORDER BY e.id
            """
        )
    )
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
        )
        for row in rows
    ]


async def replicas(tx: Transaction) -> Sequence[RoutedReplica]:
    """Ready ones, and draining ones that wait for the table that leaves them out; one query."""
    rows = await tx.execute(
        text(
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
    )
    return [RoutedReplica(*row) for row in rows]


async def next_generation(tx: Transaction, name: str, above: int) -> int:
    """The next value of a counter, also above what a snapshot on disk says: generations only grow."""
    parameters: Mapping[str, object] = {"name": name, "above": above}
    row = (
        await tx.execute(
            text(
                """
                INSERT INTO counters (name, value) VALUES (:name, :above + 1)
                ON CONFLICT (name) DO UPDATE SET value = greatest(counters.value, :above) + 1
                RETURNING value
                """
            ),
            parameters,
        )
    ).one()
    return int(row.value)
