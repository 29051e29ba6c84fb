"""What the text() statements of leases do, of their holders' clocks, and of weight syncs (ingest/store.py)."""

from datetime import datetime, timedelta

from simulation.memory.statements import Answer, plain
from simulation.memory.store import NO_KEY_UPDATE, SHARE, UPDATE, Transaction
from simulation.memory.tables import MINUS_INFINITY, Key, Row
from simulation.memory.texts.known import ACTIVE, Parameters, nothing, number, says

OPEN = ("queued", "in_progress")
REPLICA_TIMES = (
    "created_at",
    "state_since",
    "ready_at",
    "routed_at",
    "drain_deadline",
    "drain_began_at",
    "flips",
)


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
           -- written before the server's clock was set back, or by a program that gave longer ones
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


@says(
    """
    SELECT extract(epoch FROM expires_at - clock_timestamp()) AS seconds FROM leases
    WHERE name = :name AND holder <> :holder AND expires_at > clock_timestamp()
        AND expires_at <= clock_timestamp() + make_interval(secs => :ttl)
    """
)
def lease_left(tx: Transaction, p: Parameters) -> Answer:
    row, now = tx.view("leases").get((p["name"],)), tx.memory.now()
    if row is None or row["holder"] == p["holder"] or row["expires_at"] is MINUS_INFINITY:
        return Answer(("seconds",), [], 0)
    if not now < row["expires_at"] <= _ttl(tx, p):  # type: ignore[operator]  # times
        return Answer(("seconds",), [], 0)
    left = row["expires_at"] - now  # type: ignore[operator]  # times
    return Answer(("seconds",), [(left.total_seconds(),)], 1)


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


@says(
    """
    SELECT v.id, v.org_id, v.status, v.claim_epoch,
           v.cancel_requested OR v.deleted_at IS NOT NULL AS cancelled,
           COALESCE(l.expires_at >= clock_timestamp() AND l.holder <> :holder, false) AS held
    FROM model_versions v LEFT JOIN leases l ON l.name = 'sync:' || v.id
    WHERE v.status IN ('queued', 'in_progress')
    ORDER BY v.created_at, v.id LIMIT :limit
    """
)
def open_syncs(tx: Transaction, p: Parameters) -> Answer:
    rows = [v for v in tx.view("model_versions").values() if v["status"] in OPEN]
    rows.sort(key=lambda v: (v["created_at"], v["id"]))
    leases, now = tx.view("leases"), tx.memory.now()
    answers: list[tuple[object, ...]] = []
    for v in rows[: number(p["limit"])]:
        lease = leases.get((f"sync:{v['id']}",))
        held = (
            lease is not None
            and lease["expires_at"] >= now  # type: ignore[operator]  # times
            and lease["holder"] != p["holder"]
        )
        cancelled = v["cancel_requested"] or v["deleted_at"] is not None
        answers.append((v["id"], v["org_id"], v["status"], v["claim_epoch"], cancelled, held))
    names = ("id", "org_id", "status", "claim_epoch", "cancelled", "held")
    return Answer(names, answers, len(answers))


@says(
    """
    UPDATE model_versions
    SET status = 'in_progress', claim_epoch = :epoch, updated_at = clock_timestamp(),
        revision = revision + CASE status WHEN 'queued' THEN 1 ELSE 0 END
    WHERE id = :id AND status IN ('queued', 'in_progress')
    """
)
def claim(tx: Transaction, p: Parameters) -> Answer:
    key = (p["id"],)
    row = tx.view("model_versions").get(key)
    if row is None or row["status"] not in OPEN:
        return nothing(0)
    tx.lock("model_versions", key, NO_KEY_UPDATE)
    change: Row = {
        "status": "in_progress",
        "claim_epoch": p["epoch"],
        "updated_at": tx.memory.now(),
        "revision": number(row["revision"]) + (row["status"] == "queued"),
    }
    tx.update("model_versions", key, row, change)
    return nothing(1)


def _claimed(tx: Transaction, p: Parameters) -> Row | None:
    row = tx.view("model_versions").get((p["id"],))
    if row is None or row["status"] != "in_progress" or row["claim_epoch"] != p["epoch"]:
        return None
    return row


@says(
    """
    SELECT 1 FROM model_versions
    WHERE id = :id AND status = 'in_progress' AND claim_epoch = :epoch FOR UPDATE
    """
)
def guard(tx: Transaction, p: Parameters) -> Answer:
    if _claimed(tx, p) is None:
        return Answer(("one",), [], 0)
    tx.lock("model_versions", (p["id"],), UPDATE)
    return Answer(("one",), [(1,)], 1)


@says("UPDATE model_versions SET manifest_digest = :digest WHERE id = :id")
def record_manifest(tx: Transaction, p: Parameters) -> Answer:
    key = (p["id"],)
    row = tx.view("model_versions").get(key)
    if row is None:
        return nothing(0)
    tx.lock("model_versions", key, NO_KEY_UPDATE)
    tx.update("model_versions", key, row, {"manifest_digest": p["digest"]})
    return nothing(1)


@says(
    """
    UPDATE model_versions
    SET status = :status, step = '', bytes_per_s = NULL, error_code = :code, error_message = :message,
        bytes_done = CASE WHEN :done THEN bytes_total ELSE bytes_done END,
        files_done = CASE WHEN :done THEN files_total ELSE files_done END,
        manifest_digest = CASE WHEN :done THEN manifest_digest END,
        updated_at = clock_timestamp(), revision = revision + 1
    WHERE id = :id AND status = 'in_progress' AND claim_epoch = :epoch
      AND NOT (:done AND (cancel_requested OR deleted_at IS NOT NULL))
    """
)
def finish(tx: Transaction, p: Parameters) -> Answer:
    row = _claimed(tx, p)
    if row is None:
        return nothing(0)
    done = p["done"]
    if done and (row["cancel_requested"] or row["deleted_at"] is not None):
        return nothing(0)
    key = (p["id"],)
    tx.lock("model_versions", key, NO_KEY_UPDATE)
    change: Row = {
        "status": plain(p["status"]),
        "step": "",
        "bytes_per_s": None,
        "error_code": p["code"],
        "error_message": p["message"],
        "bytes_done": row["bytes_total"] if done else row["bytes_done"],
        "files_done": row["files_total"] if done else row["files_done"],
        "manifest_digest": row["manifest_digest"] if done else None,
        "updated_at": tx.memory.now(),
        "revision": number(row["revision"]) + 1,
    }
    tx.update("model_versions", key, row, change)
    return nothing(1)
