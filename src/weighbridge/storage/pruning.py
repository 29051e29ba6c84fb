"""SQL that removes the rows nobody needs any more, so that no table grows for ever."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import text

from weighbridge.storage.database import Transaction
from weighbridge.storage.idempotency import KEPT_S
from weighbridge.storage.tables import REPLICA_FINAL, ROLLOUT_FINAL

ENDED_REPLICAS_KEPT_S = 7 * 24 * 3600.0
MANIFEST_LEASES_KEPT_S = 24 * 3600.0
ROWS_MAX = 10_000
"""Of each table in one pass: the transaction stays short."""

_FAILURE_IS_SETTLED = """
    (r.failure_counted OR r.state = 'stopped' OR NOT EXISTS (
        SELECT 1 FROM deployments d
        WHERE d.endpoint_id = r.endpoint_id AND d.status <> ALL(:rollout_final)
    ))
"""
_REPLICAS = f"""
    DELETE FROM replicas WHERE id IN (
        SELECT r.id FROM replicas r
        WHERE r.state = ANY(:replica_final) AND r.state_since < :ended_before AND {_FAILURE_IS_SETTLED}
        ORDER BY r.id LIMIT :rows_max
    )
"""  # noqa: S608 - built from constants of this file
# A lease made anew counts its epochs from 1, so one goes only when no earlier holder can be left: the
# sync has ended for good, or the manifest was published long ago. The controller's stays (D5).
_LEASES = """
    DELETE FROM leases WHERE name IN (
        SELECT l.name FROM leases l LEFT JOIN model_versions v ON l.name = 'sync:' || v.id
        WHERE v.status IN ('done', 'error', 'cancelled')
           OR (l.name LIKE 'manifest:%'
               AND l.expires_at < clock_timestamp() - make_interval(secs => :manifest_kept_s))
        ORDER BY l.name LIMIT :rows_max
    )
"""
_ANSWERS = """
    DELETE FROM idempotency_keys WHERE (org_id, key) IN (
        SELECT org_id, key FROM idempotency_keys WHERE created_at < :answered_before
        ORDER BY created_at LIMIT :rows_max
    )
"""


async def prune(tx: Transaction, now: datetime) -> Mapping[str, int]:
    """Remove what has had its time; how many rows went, by table."""
    parameters = {
        "replica_final": list(REPLICA_FINAL),
        "rollout_final": list(ROLLOUT_FINAL),
        "ended_before": now - timedelta(seconds=ENDED_REPLICAS_KEPT_S),
        "manifest_kept_s": MANIFEST_LEASES_KEPT_S,
        "answered_before": now - timedelta(seconds=KEPT_S),
        "rows_max": ROWS_MAX,
    }
    removed = {}
    for table, statement in (
        ("replicas", text(_REPLICAS)),
        ("leases", text(_LEASES)),
        ("idempotency_keys", text(_ANSWERS)),
    ):
        removed[table] = (await tx.execute(statement, parameters)).rowcount
    return removed
