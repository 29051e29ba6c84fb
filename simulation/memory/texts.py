"""What each text() statement of the stores does, by its exact words; a statement that is not here is refused."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from simulation.memory.shape import UnknownStatementError
from simulation.memory.statements import Answer
from simulation.memory.store import NO_KEY_UPDATE, SHARE, UPDATE, Transaction
from simulation.memory.tables import MINUS_INFINITY, Key, Row
from weighbridge.storage.tables import REPLICA_FINAL

Parameters = Mapping[str, object]
Run = Callable[[Transaction, Parameters], Answer]
ACTIVE = ("in_progress", "rolling_back")
WANTED = ("pending", "starting", "warming", "ready")
REPLICA_TIMES = (
    "created_at",
    "state_since",
    "ready_at",
    "routed_at",
    "drain_deadline",
    "drain_began_at",
    "flips",
)
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


def _ttl(tx: Transaction, p: Parameters) -> object:
    return tx.memory.now() + timedelta(seconds=float(str(p["ttl"])))


@says(
    """
    INSERT INTO leases (name, holder, epoch, expires_at)
    VALUES (:name, :holder, 1, clock_timestamp() + make_interval(secs => :ttl))
    ON CONFLICT (name) DO UPDATE
        SET holder = :holder, epoch = leases.epoch + 1,
            expires_at = clock_timestamp() + make_interval(secs => :ttl)
        WHERE leases.expires_at < clock_timestamp() OR leases.holder = :holder
           -- written before the server's clock was set back
           OR leases.expires_at > clock_timestamp() + make_interval(secs => :ttl)
    RETURNING epoch
    """
)
def acquire_lease(tx: Transaction, p: Parameters) -> Answer:
    key = (p["name"],)
    tx.lock("leases", key, NO_KEY_UPDATE)
    row = tx.view("leases").get(key)
    if row is None:
        wanted = {"name": p["name"], "holder": p["holder"], "epoch": 1, "expires_at": _ttl(tx, p)}
        tx.insert("leases", wanted)
        _leads(tx, p, 1)
        return Answer(("epoch",), [(1,)], 1)
    ahead = row["expires_at"] > _ttl(tx, p)  # type: ignore[operator]  # times
    if not (_before(row["expires_at"], tx) or row["holder"] == p["holder"] or ahead):
        return Answer(("epoch",), [], 0)
    epoch = number(row["epoch"]) + 1
    change = {"holder": p["holder"], "epoch": epoch, "expires_at": _ttl(tx, p)}
    tx.update("leases", key, row, change)
    _leads(tx, p, epoch)
    return Answer(("epoch",), [(epoch,)], 1)


def _leads(tx: Transaction, p: Parameters, epoch: int) -> None:
    """What this transaction writes is written under that epoch of the controller."""
    if p["name"] == "controller":
        tx.epoch = epoch


def _before(at: object, tx: Transaction) -> bool:
    return at is MINUS_INFINITY or at < tx.memory.now()  # type: ignore[operator]  # a column of times


def _held_lease(tx: Transaction, p: Parameters) -> Row | None:
    row = tx.view("leases").get((p["name"],))
    if row is None or row["epoch"] != p["epoch"] or _before(row["expires_at"], tx):
        return None
    return row


@says(
    """
    UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => :ttl)
    WHERE name = :name AND epoch = :epoch AND expires_at >= clock_timestamp()
    """
)
def renew_lease(tx: Transaction, p: Parameters) -> Answer:
    row = _held_lease(tx, p)
    if row is None:
        return nothing(0)
    key = (p["name"],)
    tx.lock("leases", key, NO_KEY_UPDATE)
    tx.update("leases", key, row, {"expires_at": _ttl(tx, p)})
    return nothing(1)


@says("UPDATE leases SET expires_at = '-infinity' WHERE name = :name AND epoch = :epoch")
def release_lease(tx: Transaction, p: Parameters) -> Answer:
    key = (p["name"],)
    row = tx.view("leases").get(key)
    if row is None or row["epoch"] != p["epoch"]:
        return nothing(0)
    tx.lock("leases", key, NO_KEY_UPDATE)
    tx.update("leases", key, row, {"expires_at": MINUS_INFINITY})
    return nothing(1)


@says(
    """
    SELECT 1 FROM leases
    WHERE name = :name AND epoch = :epoch AND expires_at >= clock_timestamp() FOR SHARE
    """
)
def require_lease(tx: Transaction, p: Parameters) -> Answer:
    if _held_lease(tx, p) is None:
        return Answer(("one",), [], 0)
    tx.lock("leases", (p["name"],), SHARE)
    _leads(tx, p, number(p["epoch"]))
    return Answer(("one",), [(1,)], 1)


@says(
    """
    UPDATE leases SET holder_at = :at, holder_boot_id = :boot_id, holder_boot_s = :boot_s
    WHERE name = :name AND epoch = :epoch
    """
)
def mark_lease(tx: Transaction, p: Parameters) -> Answer:
    key = (p["name"],)
    row = tx.view("leases").get(key)
    if row is None or row["epoch"] != p["epoch"]:
        return nothing(0)
    tx.lock("leases", key, NO_KEY_UPDATE)
    marks = {f"holder_{name}": p[name] for name in ("at", "boot_id", "boot_s")}
    tx.update("leases", key, row, marks)
    return nothing(1)


@says("SELECT holder_at, holder_boot_id, holder_boot_s FROM leases WHERE name = :name")
def last_mark(tx: Transaction, p: Parameters) -> Answer:
    names = ("holder_at", "holder_boot_id", "holder_boot_s")
    row = tx.view("leases").get((p["name"],))
    rows = [] if row is None else [tuple(row[name] for name in names)]
    return Answer(names, rows, len(rows))


def _shift(
    tx: Transaction, table: str, keys: list[Key], columns: tuple[str, ...], p: Parameters
) -> Answer:
    by = timedelta(seconds=float(str(p["shift_s"])))
    for key in keys:
        tx.lock(table, key, NO_KEY_UPDATE)
        row = tx.view(table)[key]
        change: Row = {"revision": number(row["revision"]) + 1}
        for name in columns:
            value = row[name]
            if isinstance(value, datetime):
                change[name] = value + by
            elif isinstance(value, list):
                change[name] = [at + by for at in value]
        tx.update(table, key, row, change)
    return nothing(len(keys))


@says(
    """
    UPDATE deployments
    SET started_at = started_at + make_interval(secs => :shift_s),
        progress_at = progress_at + make_interval(secs => :shift_s),
        promoted_at = promoted_at + make_interval(secs => :shift_s),
        revision = revision + 1
    WHERE status IN ('in_progress', 'rolling_back')
    """
)
def shift_rollouts(tx: Transaction, p: Parameters) -> Answer:
    active = [key for key, row in tx.view("deployments").items() if row["status"] in ACTIVE]
    return _shift(tx, "deployments", active, ("started_at", "progress_at", "promoted_at"), p)


@says(
    """
    UPDATE replicas
    SET created_at = created_at + make_interval(secs => :shift_s),
        state_since = state_since + make_interval(secs => :shift_s),
        ready_at = ready_at + make_interval(secs => :shift_s),
        routed_at = routed_at + make_interval(secs => :shift_s),
        drain_deadline = drain_deadline + make_interval(secs => :shift_s),
        drain_began_at = drain_began_at + make_interval(secs => :shift_s),
        flips = ARRAY(
            SELECT flip.at + make_interval(secs => :shift_s)
            FROM unnest(flips) WITH ORDINALITY AS flip (at, place) ORDER BY flip.place
        ),
        revision = revision + 1
    WHERE state <> 'stopped'
    """
)
def shift_replicas(tx: Transaction, p: Parameters) -> Answer:
    there = [key for key, row in tx.view("replicas").items() if row["state"] != "stopped"]
    return _shift(tx, "replicas", there, REPLICA_TIMES, p)


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
