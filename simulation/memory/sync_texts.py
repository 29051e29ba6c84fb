"""What the text() statements of weight syncs do (ingest/store.py), as far as the simulation runs them."""

from simulation.memory.statements import Answer, plain
from simulation.memory.store import NO_KEY_UPDATE, UPDATE, Transaction
from simulation.memory.tables import Row
from simulation.memory.texts import Parameters, nothing, number, says

OPEN = ("queued", "in_progress")


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
