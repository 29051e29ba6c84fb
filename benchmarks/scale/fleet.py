"""The fleet as rows: endpoints that serve, with a history as a year of use leaves it; and its size."""

from dataclasses import dataclass

from sqlalchemy import create_engine, text

from weighbridge.storage.database import Database, driver_url

REPLICAS = 10
NODES = 200
ORGS = 20
ARCH = "a"
DEPLOYMENTS_PAST = 50
"""Of each endpoint, ended: deployments are kept for ever."""
WEEK = 7
"""Deployments of the last week: their stopped replicas are kept so long."""
CHANGED_SHARE = 0.01

_ROWS = """
TRUNCATE orgs, architectures, model_versions, endpoints, deployments, replicas, receipts, leases,
    counters, idempotency_keys, usage_requests, gateway_tables, gateway_hosts CASCADE;

INSERT INTO orgs (id, name, s3_external_id, created_at)
  SELECT 'o' || o, 'org-' || o, 'x' || o, now()
  FROM generate_series(0, :orgs - 1) o;

INSERT INTO architectures (id, source_uri, base_digest, tensors, engine, created_at, updated_at)
  VALUES (:arch, '/m', 'b', '[]', '{"engine": "llamacpp"}', now(), now());

INSERT INTO model_versions (id, org_id, arch_id, number, weight_uri, status, manifest_digest,
    bytes_total, created_at, updated_at)
  SELECT 'v' || o || '-' || k, 'o' || o, :arch, k, 's3://b/p', 'done', repeat(k::text, 64), 1000,
    now(), now()
  FROM generate_series(0, :orgs - 1) o, generate_series(1, 2) k;

INSERT INTO endpoints (id, org_id, arch_id, replicas, max_unavailable, max_surge,
    base_deployment_id, created_at, updated_at)
  SELECT 'e' || n, 'o' || n % :orgs, :arch, :replicas, 0, 1, 'd' || n || '-' || :past, now(), now()
  FROM generate_series(1, :endpoints) n;

-- The last one of each endpoint is the one that serves.
INSERT INTO deployments (id, sequence, endpoint_id, org_id, arch_id, version_id, version_number,
    digest, fingerprint, reference, status, replicas, max_unavailable, max_surge, updated_replicas,
    updated_max, created_at, updated_at, started_at, finished_at)
  SELECT 'd' || n || '-' || k, n * (:past + 1) + k, 'e' || n, 'o' || n % :orgs, :arch, 'v' || n %
    :orgs || '-1', 1, repeat('1', 64), 'f', '1', 'done', :replicas, 0, 1, :replicas, :replicas, at,
    at, at, at
  FROM generate_series(1, :endpoints) n, generate_series(0, :past) k,
  LATERAL (SELECT now() - make_interval(days => :past - k) AS at) days;

INSERT INTO receipts (deployment_id, endpoint_id, following, entries, head, sealed_at)
  SELECT id, endpoint_id, finished_at > now() - interval '1 hour', 0, repeat('0', 64), finished_at
  FROM deployments;

INSERT INTO replicas (id, endpoint_id, deployment_id, version_id, version_number, digest,
    fingerprint, state, slot, url, incarnation, routed_generation, unrouted_generation, routed_at,
    created_at, state_since, ready_at)
  SELECT 'r-' || n || '-' || k || '-' || past, 'e' || n, 'd' || n || '-' || past, 'v' || n % :orgs
    || '-1', 1, repeat('1', 64), 'f', CASE past WHEN :past THEN 'ready' ELSE 'stopped' END, (n - 1)
    * :replicas + k, 'http://r', 'i', 1, CASE past WHEN :past THEN NULL ELSE 1 END, at, at, at, at +
    interval '20 s'
  FROM generate_series(1, :endpoints) n, generate_series(0, :replicas - 1) k, generate_series(:past
    - :week, :past) past,
  LATERAL (SELECT now() - make_interval(days => :past - past) - interval '1 min' AS at) days;

INSERT INTO counters (name, value)
  VALUES ('deployments', (:endpoints + 1) * (:past + 1))
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    endpoints: int

    @property
    def replicas(self) -> int:
        return self.endpoints * REPLICAS

    @property
    def nodes_lost(self) -> int:
        """How many nodes hold the share of replicas that is to change."""
        return max(1, round(NODES * CHANGED_SHARE))


def replica_ids(endpoints: int) -> list[str]:
    return [
        f"r-{n}-{k}-{DEPLOYMENTS_PAST}" for n in range(1, endpoints + 1) for k in range(REPLICAS)
    ]


async def fill(url: str, fleet: Fleet) -> None:
    """Nothing else is in the database afterwards, and its planner knows what is."""
    values = {
        ":endpoints": str(fleet.endpoints),
        ":replicas": str(REPLICAS),
        ":orgs": str(ORGS),
        ":arch": f"'{ARCH}'",
        ":past": str(DEPLOYMENTS_PAST),
        ":week": str(WEEK),
    }
    database = Database(url)
    async with database.begin() as tx:
        await tx.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in _ROWS.split(";"):
            # Written into the text: PostgreSQL cannot tell which integers parameters are.
            for name, value in values.items():
                statement = statement.replace(name, value)  # noqa: PLW2901
            await tx.execute(text(statement))
    await database.close()
    engine = create_engine(driver_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()
