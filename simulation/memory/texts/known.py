"""What each text() statement of the stores does, by its exact words; a statement that is not here is refused."""

from collections.abc import Callable, Mapping

from simulation.memory.shape import UnknownStatementError
from simulation.memory.statements import Answer
from simulation.memory.store import NO_KEY_UPDATE, UPDATE, Transaction
from simulation.memory.tables import Key, Row
from weighbridge.storage.tables import REPLICA_FINAL

Parameters = Mapping[str, object]
Run = Callable[[Transaction, Parameters], Answer]
ACTIVE = ("in_progress", "rolling_back")
WANTED = ("pending", "starting", "warming", "ready")
_known: dict[str, Run] = {}
_by_text: dict[str, Run] = {}


def says(*words: str) -> Callable[[Run], Run]:
    """Register the equivalent of a statement by its text; white space counts for nothing."""

    def register(run: Run) -> Run:
        for text in words:
            _known[_folded(text)] = run
        return run

    return register


def find(text: str) -> Run:
    """Raises UnknownStatementError, with the words to register."""
    run = _by_text.get(text)
    if run is None:
        run = _known.get(_folded(text))
        if run is None:
            raise UnknownStatementError(
                f"simulation/memory has no equivalent of this statement; write one:\n{text}"
            )
        _by_text[text] = run
    return run


def _folded(text: str) -> str:
    return " ".join(text.split())


def nothing(count: int) -> Answer:
    return Answer((), [], count)


def number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _count_up(tx: Transaction, name: object, above: int) -> Answer:
    key = (name,)
    tx.lock("counters", key, NO_KEY_UPDATE)
    row = tx.view("counters").get(key)
    value = max(above, 0 if row is None else number(row["value"])) + 1
    if row is None:
        tx.insert("counters", {"name": name, "value": value})
    else:
        tx.update("counters", key, row, {"value": value})
    return Answer(("value",), [(value,)], 1)


@says(
    """
    INSERT INTO counters (name, value) VALUES (:name, 1)
    ON CONFLICT (name) DO UPDATE SET value = counters.value + 1
    RETURNING value
    """
)
def next_value(tx: Transaction, p: Parameters) -> Answer:
    return _count_up(tx, p["name"], 0)


@says(
    """
    INSERT INTO counters (name, value) VALUES (:name, :above + 1)
    ON CONFLICT (name) DO UPDATE SET value = greatest(counters.value, :above) + 1
    RETURNING value
    """
)
def next_generation(tx: Transaction, p: Parameters) -> Answer:
    return _count_up(tx, p["name"], number(p["above"]))


@says("SELECT pg_advisory_xact_lock(:key)")
def advisory_lock(tx: Transaction, p: Parameters) -> Answer:
    tx.lock("advisory", (p["key"],), UPDATE)
    return Answer(("pg_advisory_xact_lock",), [(None,)], 1)


@says(
    """
    WITH alive AS (
        SELECT r.endpoint_id,
               count(*) AS wanted,
               count(*) FILTER (
                   WHERE r.state <> 'ready'
                     AND (b.id IS NULL
                          OR (r.version_id, r.settings_digest)
                             <> (b.version_id, b.settings_digest))
               ) AS strays
        FROM replicas r
        JOIN endpoints e ON e.id = r.endpoint_id
        LEFT JOIN deployments b ON b.id = e.base_deployment_id
        WHERE r.state IN ('pending', 'starting', 'warming', 'ready')
        GROUP BY r.endpoint_id
    )
    SELECT e.id
    FROM endpoints e
    LEFT JOIN alive a ON a.endpoint_id = e.id
    WHERE EXISTS (
              SELECT 1 FROM deployments d
              WHERE d.endpoint_id = e.id
                AND d.status IN ('not_started', 'in_progress', 'rolling_back')
          )
       OR a.strays > 0
       OR (e.deleted_at IS NOT NULL AND a.wanted > 0)
       OR (e.deleted_at IS NULL AND a.wanted > e.replicas)
       OR (e.deleted_at IS NULL AND e.base_deployment_id IS NOT NULL
           AND coalesce(a.wanted, 0) < e.replicas)
    ORDER BY e.id
    """
)
def restless(tx: Transaction, p: Parameters) -> Answer:
    replicas, deployments = tx.view("replicas").values(), tx.view("deployments")
    moving = {
        d["endpoint_id"] for d in deployments.values() if d["status"] in (*ACTIVE, "not_started")
    }
    found: list[tuple[object, ...]] = []
    for (name,), endpoint in sorted(tx.view("endpoints").items(), key=by_key):
        base = deployments.get((endpoint["base_deployment_id"],))
        served = None if base is None else (base["version_id"], base["settings_digest"])
        alive = [r for r in replicas if r["endpoint_id"] == name and r["state"] in WANTED]
        strays = any(
            r["state"] != "ready" and (r["version_id"], r["settings_digest"]) != served
            for r in alive
        )
        size = number(endpoint["replicas"])
        if endpoint["deleted_at"] is not None:
            off_size = bool(alive)
        else:
            short = endpoint["base_deployment_id"] is not None and len(alive) < size
            off_size = len(alive) > size or short
        if name in moving or strays or off_size:
            found.append((name,))
    return Answer(("id",), found, len(found))


def by_key(item: tuple[Key, Row]) -> str:
    return str(item[0][0])


def _remove(tx: Transaction, table: str, keys: list[Key], p: Parameters) -> Answer:
    keys = sorted(keys)[: number(p["rows_max"])]
    for key in keys:
        tx.lock(table, key, UPDATE)
        tx.delete(table, key)
    return nothing(len(keys))


@says(
    """
    DELETE FROM replicas WHERE id IN (
        SELECT r.id FROM replicas r
        WHERE r.state = ANY(:replica_final) AND r.state_since < :ended_before AND
    (r.failure_counted OR r.state = 'stopped' OR NOT EXISTS (
        SELECT 1 FROM deployments d
        WHERE d.endpoint_id = r.endpoint_id AND d.status <> ALL(:rollout_final)
    ))
        ORDER BY r.id LIMIT :rows_max
    )
    """
)
def prune_replicas(tx: Transaction, p: Parameters) -> Answer:
    final = p["rollout_final"]
    assert isinstance(final, list)
    moving = {d["endpoint_id"] for d in tx.view("deployments").values() if d["status"] not in final}
    gone = [
        key
        for key, r in tx.view("replicas").items()
        if r["state"] in REPLICA_FINAL
        and r["state_since"] < p["ended_before"]  # type: ignore[operator]  # times
        and (r["failure_counted"] or r["state"] == "stopped" or r["endpoint_id"] not in moving)
    ]
    return _remove(tx, "replicas", gone, p)


@says(
    """
    DELETE FROM leases WHERE name IN (
        SELECT l.name FROM leases l LEFT JOIN model_versions v ON l.name = 'sync:' || v.id
        WHERE v.status IN ('done', 'error', 'cancelled')
           OR (l.name LIKE 'manifest:%'
               AND l.expires_at < clock_timestamp() - make_interval(secs => :manifest_kept_s))
        ORDER BY l.name LIMIT :rows_max
    )
    """
)
def prune_leases(tx: Transaction, p: Parameters) -> Answer:
    versions = tx.view("model_versions")
    ended = {"done", "error", "cancelled"}
    gone = []
    for key in tx.view("leases"):
        name = str(key[0])
        version = versions.get((name.removeprefix("sync:"),)) if name.startswith("sync:") else None
        if version is not None and version["status"] in ended:
            gone.append(key)
    return _remove(tx, "leases", gone, p)


@says(
    """
    DELETE FROM idempotency_keys WHERE (org_id, key) IN (
        SELECT org_id, key FROM idempotency_keys WHERE created_at < :answered_before
        ORDER BY created_at LIMIT :rows_max
    )
    """
)
def prune_answers(tx: Transaction, p: Parameters) -> Answer:
    if tx.view("idempotency_keys"):
        raise UnknownStatementError("idempotency keys are not simulated")
    return nothing(0)
