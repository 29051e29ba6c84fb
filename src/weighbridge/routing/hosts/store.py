"""SQL of gateway hosts: their reports under leases on the database's clock (D5)."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from weighbridge.errors import StaleError
from weighbridge.routing.acks import WorkerAck
from weighbridge.routing.hosts.identity import HostIdentity
from weighbridge.routing.hosts.model import HOST_LEASE_S, Host, HostReport
from weighbridge.storage.database import Transaction

_JSON = (bindparam("workers", type_=JSONB), bindparam("in_flight", type_=JSONB))
_ENTER = text(
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
).bindparams(*_JSON)
_REPORT = text(
    """
    UPDATE gateway_hosts
    SET expires_at = clock_timestamp() + make_interval(secs => :ttl),
        routes_generation = :routes_generation, keys_generation = :keys_generation,
        workers = :workers, in_flight = :in_flight
    WHERE id = :id AND epoch = :epoch
    """
).bindparams(*_JSON)
_LEAVE = text("DELETE FROM gateway_hosts WHERE id = :id AND epoch = :epoch")
# The day is for people who look; nobody waits for such a host.
_FORGET = text("DELETE FROM gateway_hosts WHERE expires_at < clock_timestamp() - interval '1 day'")
_HOSTS = text(
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


async def enter(tx: Transaction, identity: HostIdentity, report: HostReport) -> int:
    """The first report of a courier; returns the epoch of its others. An earlier courier's are refused from now on."""
    await tx.execute(_FORGET)
    named = {"id": identity.id, "name": identity.name, "ttl": HOST_LEASE_S}
    return int((await tx.execute(_ENTER, named | _values(report))).one().epoch)


async def report(tx: Transaction, identity: HostIdentity, epoch: int, now: HostReport) -> None:
    """Also lengthens the lease, ended or not. StaleError when another courier of the host has entered since."""
    named = {"id": identity.id, "epoch": epoch, "ttl": HOST_LEASE_S}
    if (await tx.execute(_REPORT, named | _values(now))).rowcount != 1:
        raise StaleError(f"gateway host {identity.name} has another courier than epoch {epoch}")


async def leave(tx: Transaction, identity: HostIdentity, epoch: int) -> None:
    """Its workers have ended: nobody need wait for its lease."""
    await tx.execute(_LEAVE, {"id": identity.id, "epoch": epoch})


async def hosts(tx: Transaction) -> Sequence[Host]:
    """All that have reported lately, by name."""
    return [
        Host(
            row.id,
            row.name,
            row.expires_at,
            row.expired,
            HostReport(
                row.routes_generation,
                row.keys_generation,
                tuple(WorkerAck(*numbers, row.name) for numbers in _workers(row.workers)),
                msgspec.convert(row.in_flight, dict[int, int], strict=False),
            ),
        )
        for row in await tx.execute(_HOSTS, {"ttl": HOST_LEASE_S})
    ]


def _workers(document: object) -> list[tuple[int, int, int]]:
    return msgspec.convert(document, list[tuple[int, int, int]])


def _values(report: HostReport) -> dict[str, object]:
    return {
        "routes_generation": report.routes_generation,
        "keys_generation": report.keys_generation,
        "workers": [
            [ack.pid, ack.routes_generation, ack.keys_generation] for ack in report.workers
        ],
        "in_flight": {str(slot): count for slot, count in report.in_flight.items()},
    }
