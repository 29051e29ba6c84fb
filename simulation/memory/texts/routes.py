"""What the text() statements of the routing table do (replicas/routes_store.py)."""

from datetime import datetime

from simulation.memory.statements import Answer
from simulation.memory.store import NO_KEY_UPDATE, Transaction
from simulation.memory.tables import Row
from simulation.memory.texts.known import ACTIVE, Parameters, by_key, nothing, number, says


@says(
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
def routed_endpoints(tx: Transaction, p: Parameters) -> Answer:
    orgs, architectures = tx.view("orgs"), tx.view("architectures")
    active = {d["endpoint_id"]: d for d in tx.view("deployments").values() if d["status"] in ACTIVE}
    rows: list[tuple[object, ...]] = []
    for (name,), e in sorted(tx.view("endpoints").items(), key=by_key):
        if e["deleted_at"] is not None:
            continue
        mine = [r for r in tx.view("replicas").values() if r["endpoint_id"] == name]
        runs, based = name in active, e["base_deployment_id"] is not None
        served = any(r["ready_at"] is not None for r in mine)
        start_s = _median_start_s(mine, number(p["starts_max"]))
        began = _starting_since(mine)
        expected = None if began is None else began.timestamp() + start_s
        created = round(_time(e["created_at"]).timestamp())
        head = (name, e["org_id"], orgs[e["org_id"],]["name"], e["arch_id"])
        middle = (architectures[e["arch_id"],]["engine"], e["limits"], created)
        share = _share(active.get(name))
        tail = (e["gateway"], start_s, expected, based or runs)
        rows.append((*head, *middle, based or runs or served, runs, *share, *tail))
    names = ("id", "org_id", "org_name", "arch_id", "engine", "limits", "created_unix_s")
    more = ("deployed", "rolling_out", "share_version", "share_percent", "gateway")
    times = ("start_s", "ready_expected_unix_s", "restored")
    return Answer((*names, *more, *times), rows, len(rows))


def _share(rollout: Row | None) -> tuple[object, object]:
    """The version that has a share of the traffic, and how much."""
    if rollout is None:
        return None, None
    percent = rollout["traffic_percent"]
    if rollout["promoted_at"] is not None or percent is None:
        percent = None
    elif rollout["status"] == "rolling_back":
        percent = 0
    return rollout["version_number"], percent


def _time(value: object) -> datetime:
    assert isinstance(value, datetime)
    return value


def _median_start_s(replicas: list[Row], last: int) -> float:
    started = [r for r in replicas if r["ready_at"] is not None]
    started.sort(key=lambda r: _time(r["ready_at"]), reverse=True)
    took_s = sorted(
        round((_time(r["ready_at"]) - _time(r["created_at"])).total_seconds(), 1)
        for r in started[:last]
    )
    return took_s[(len(took_s) - 1) // 2] if took_s else 0.0


def _starting_since(replicas: list[Row]) -> datetime | None:
    """Since when the first of them starts, while none is ready."""
    if any(r["state"] == "ready" for r in replicas):
        return None
    starting = ("pending", "starting", "warming")
    return min((_time(r["created_at"]) for r in replicas if r["state"] in starting), default=None)


@says(
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
def routed_replicas(tx: Transaction, p: Parameters) -> Answer:
    rows = [
        r
        for r in tx.view("replicas").values()
        if r["state"] == "ready" or (r["state"] == "draining" and r["unrouted_generation"] is None)
    ]
    rows.sort(key=lambda r: (r["endpoint_id"], r["created_at"], r["id"]))
    answers: list[tuple[object, ...]] = []
    for r in rows:
        ready = r["state"] == "ready"
        noted = r["routed_generation" if ready else "unrouted_generation"] is not None
        head = (r["id"], r["endpoint_id"], ready, noted, r["slot"], r["url"] or "")
        tail = (r["incarnation"] or "", r["digest"], r["version_number"], r["fingerprint"])
        answers.append(head + tail)
    names = ("id", "endpoint_id", "ready", "noted", "slot", "url", "incarnation", "digest")
    return Answer((*names, "version_number", "fingerprint"), answers, len(answers))


@says("SELECT name, generation, place, pepper_mark FROM gateway_tables ORDER BY name")
def table_heads(tx: Transaction, p: Parameters) -> Answer:
    names = ("name", "generation", "place", "pepper_mark")
    rows = [
        tuple(row[name] for name in names) for _, row in sorted(tx.view("gateway_tables").items())
    ]
    return Answer(names, rows, len(rows))


@says("SELECT content FROM gateway_tables WHERE name = :name")
def table_content(tx: Transaction, p: Parameters) -> Answer:
    row = tx.view("gateway_tables").get((p["name"],))
    rows: list[tuple[object, ...]] = [] if row is None else [(row["content"],)]
    return Answer(("content",), rows, len(rows))


@says(
    """
    INSERT INTO gateway_tables (name, generation, content, place, pepper_mark)
    VALUES (:name, :generation, :content, :place, :pepper_mark)
    ON CONFLICT (name) DO UPDATE
        SET generation = :generation, content = :content, place = :place, pepper_mark = :pepper_mark
        WHERE gateway_tables.generation < :generation
    """
)
def put_table(tx: Transaction, p: Parameters) -> Answer:
    key = (p["name"],)
    tx.lock("gateway_tables", key, NO_KEY_UPDATE)
    before = tx.view("gateway_tables").get(key)
    if before is None:
        tx.insert("gateway_tables", dict(p))
    elif number(before["generation"]) < number(p["generation"]):
        tx.update("gateway_tables", key, before, dict(p))
    else:
        return nothing(0)
    return nothing(1)
