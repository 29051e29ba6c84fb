"""A whole receipt of a small rollout, as a server would write it."""

from datetime import UTC, datetime, timedelta

from weighbridge.sdk.receipts.chain import ALGORITHM, FORMAT, GENESIS, SCHEMA, link
from weighbridge.sdk.receipts.summary import summarise

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ID = "3f0c4c1e-0000-4000-8000-000000000001"
EXTERNAL = {
    "requests": [{"version": 1, "requests": 7, "failed": 0}],
    "held": None,
    "not_measured": {"held": "no gateway figure"},
    "omitted_entries": 0,
}


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat()


def replica(name: str, version: int, state: str, second: float, routable: int, **more):
    about = {"event": "replica", "replica": name, "version": version, "state": state}
    return {**about, "at": at(second), "routable": routable, **more}


PAYLOADS = [
    {"event": "submitted", "at": at(0), "reference": "prod", "version": 2, "asked_by": "k1", "digest": "d2"},
    {"event": "started", "at": at(1), "replicas": 1, "floor": 1, "base_version": 1, "routable": 1},
    replica("r-2", 2, "pending", 1, 1),
    replica("r-2", 2, "starting", 2, 1),
    replica("r-2", 2, "warming", 3, 1, digest="d2"),
    replica("r-2", 2, "ready", 4, 1),
    replica("r-2", 2, "routed", 4.5, 2),
    replica("r-1", 1, "draining", 5, 1),
    {"event": "progress", "at": at(5), "updated": 1, "routable": 1},
    replica("r-1", 1, "unrouted", 6, 1, in_flight=3),
    replica("r-1", 1, "stopping", 9, 1, in_flight=1, reason="1 requests cut at the drain deadline"),
    replica("r-1", 1, "stopped", 10, 1),
    {"event": "ended", "at": at(12), "status": "done", "reason": "1/1", "error": None, "routable": 1},
]  # fmt: skip


def document(payloads=PAYLOADS, *, sealed: bool = True):
    events = list(payloads)
    if sealed:
        seal = {"event": "sealed", "at": at(20), "summary": summarise(events, EXTERNAL)}
        events.append(seal)
    entries = link(ID, 0, GENESIS, events)
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "algorithm": ALGORITHM,
        "deployment_id": ID,
        "head": entries[-1].hash,
        "sealed": sealed,
        "entries": [
            {"sequence": e.sequence, "payload": e.payload, "previous": e.previous, "hash": e.hash}
            for e in entries
        ],
    }
