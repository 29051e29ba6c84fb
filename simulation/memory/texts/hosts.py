"""What the text() statements of gateway hosts do (routing/hosts/store.py)."""

from datetime import datetime, timedelta

from simulation.memory.statements import Answer
from simulation.memory.store import NO_KEY_UPDATE, UPDATE, Transaction
from simulation.memory.tables import Row
from simulation.memory.texts.known import Parameters, nothing, number, says

REPORTED = ("routes_generation", "keys_generation", "workers", "in_flight")


def _now(tx: Transaction) -> datetime:
    return tx.memory.now()


def _lease(tx: Transaction, p: Parameters) -> datetime:
    return _now(tx) + timedelta(seconds=float(str(p["ttl"])))


def _report(tx: Transaction, p: Parameters) -> Row:
    return {"expires_at": _lease(tx, p), **{name: p[name] for name in REPORTED}}


@says(
    """
    INSERT INTO gateway_hosts
        (id, name, epoch, expires_at, routes_generation, keys_generation, workers, in_flight)
    VALUES (:id, :name, 1, clock_timestamp() + make_interval(secs => :ttl),
            :routes_generation, :keys_generation, :workers, :in_flight)
    ON CONFLICT (id) DO UPDATE
        SET epoch = gateway_hosts.epoch + 1, expires_at = excluded.expires_at,
            routes_generation = excluded.routes_generation,
            keys_generation = excluded.keys_generation,
            workers = excluded.workers, in_flight = excluded.in_flight
    RETURNING epoch
    """
)
def enter(tx: Transaction, p: Parameters) -> Answer:
    key = (p["id"],)
    tx.lock("gateway_hosts", key, NO_KEY_UPDATE)
    before = tx.view("gateway_hosts").get(key)
    epoch = 1 if before is None else number(before["epoch"]) + 1
    if before is None:
        named = {"id": p["id"], "name": p["name"], "epoch": epoch}
        tx.insert("gateway_hosts", named | _report(tx, p))
    else:
        tx.update("gateway_hosts", key, before, {"epoch": epoch} | _report(tx, p))
    return Answer(("epoch",), [(epoch,)], 1)


@says(
    """
    UPDATE gateway_hosts
    SET expires_at = clock_timestamp() + make_interval(secs => :ttl),
        routes_generation = :routes_generation, keys_generation = :keys_generation,
        workers = :workers, in_flight = :in_flight
    WHERE id = :id AND epoch = :epoch
    """
)
def report(tx: Transaction, p: Parameters) -> Answer:
    key = (p["id"],)
    row = tx.view("gateway_hosts").get(key)
    if row is None or row["epoch"] != p["epoch"]:
        return nothing(0)
    tx.lock("gateway_hosts", key, NO_KEY_UPDATE)
    tx.update("gateway_hosts", key, row, _report(tx, p))
    return nothing(1)


def _remove(tx: Transaction, gone: list[Row]) -> Answer:
    for row in gone:
        tx.lock("gateway_hosts", (row["id"],), UPDATE)
    for row in gone:
        tx.delete("gateway_hosts", (row["id"],))
    return nothing(len(gone))


@says("DELETE FROM gateway_hosts WHERE id = :id AND epoch = :epoch")
def leave(tx: Transaction, p: Parameters) -> Answer:
    row = tx.view("gateway_hosts").get((p["id"],))
    return _remove(tx, [row] if row is not None and row["epoch"] == p["epoch"] else [])


@says("DELETE FROM gateway_hosts WHERE expires_at < clock_timestamp() - interval '1 day'")
def forget(tx: Transaction, p: Parameters) -> Answer:
    limit = _now(tx) - timedelta(days=1)
    rows = tx.view("gateway_hosts").values()
    return _remove(tx, [row for row in rows if _end(row) < limit])


@says(
    """
    SELECT id, name, expires_at,
           expires_at < clock_timestamp()
               -- written before the server's clock was set back
               OR expires_at > clock_timestamp() + make_interval(secs => :ttl) AS expired,
           routes_generation, keys_generation, workers, in_flight
    FROM gateway_hosts
    ORDER BY name, id
    """
)
def hosts(tx: Transaction, p: Parameters) -> Answer:
    now, latest = _now(tx), _lease(tx, p)
    rows = sorted(tx.view("gateway_hosts").values(), key=lambda row: (row["name"], row["id"]))
    answers: list[tuple[object, ...]] = []
    for row in rows:
        end = _end(row)
        head = (row["id"], row["name"], end, end < now or end > latest)
        answers.append((*head, *(row[name] for name in REPORTED)))
    names = ("id", "name", "expires_at", "expired", *REPORTED)
    return Answer(names, answers, len(answers))


def _end(row: Row) -> datetime:
    end = row["expires_at"]
    assert isinstance(end, datetime)
    return end
