"""Leases on the database's clock, with epochs that fence off an earlier holder (D5)."""

from dataclasses import dataclass

from sqlalchemy import text

from weighbridge.clock import Moment
from weighbridge.errors import StaleError
from weighbridge.storage.database import Transaction

LEASE_TTL_S = 15.0
"""Of a lease that says nothing else, as a sync's claim; the controller's is shorter (`server.roles.leading`)."""
LEASE_RENEW_S = 5.0

_ACQUIRE = text(
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

_RENEW = text(
    """
    UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => :ttl)
    WHERE name = :name AND epoch = :epoch AND expires_at >= clock_timestamp()
    """
)

_REQUIRE = text(
    """
    SELECT 1 FROM leases
    WHERE name = :name AND epoch = :epoch AND expires_at >= clock_timestamp() FOR SHARE
    """
)

_MARK = text(
    """
    UPDATE leases SET holder_at = :at, holder_boot_id = :boot_id, holder_boot_s = :boot_s
    WHERE name = :name AND epoch = :epoch
    """
)

_LEFT = text(
    """
    SELECT extract(epoch FROM expires_at - clock_timestamp()) AS seconds FROM leases
    WHERE name = :name AND holder <> :holder AND expires_at > clock_timestamp()
        AND expires_at <= clock_timestamp() + make_interval(secs => :ttl)
    """
)

_LAST_MARK = text("SELECT holder_at, holder_boot_id, holder_boot_s FROM leases WHERE name = :name")


@dataclass(frozen=True, slots=True)
class Lease:
    name: str
    holder: str
    epoch: int


async def acquire(
    tx: Transaction, name: str, holder: str, *, ttl_s: float = LEASE_TTL_S
) -> Lease | None:
    """Take a free or expired lease, or one this very holder left behind; None while another has it.

    Each acquisition raises the epoch, so what an earlier holder still tries is refused by `require`. A
    holder's name must be one that two live processes cannot share. A lease that ends later than any made now
    counts as expired (D6): the clock was set back, or its holder is of a version that gave longer ones, lives, and is
    fenced off.
    """
    row = (
        await tx.execute(
            _ACQUIRE,
            {"name": name, "holder": holder, "ttl": ttl_s},
        )
    ).one_or_none()
    return None if row is None else Lease(name, holder, row.epoch)


async def renew(tx: Transaction, lease: Lease, *, ttl_s: float = LEASE_TTL_S) -> bool:
    """Keep a lease; False means that it is lost and every decision made under it is void."""
    result = await tx.execute(
        _RENEW,
        {"name": lease.name, "epoch": lease.epoch, "ttl": ttl_s},
    )
    return result.rowcount == 1


async def release(tx: Transaction, lease: Lease) -> None:
    await tx.execute(
        text("UPDATE leases SET expires_at = '-infinity' WHERE name = :name AND epoch = :epoch"),
        {"name": lease.name, "epoch": lease.epoch},
    )


async def require(tx: Transaction, lease: Lease) -> None:
    """Fence this transaction: StaleError unless the lease is still held, and nobody takes it before commit."""
    row = (
        await tx.execute(
            _REQUIRE,
            {"name": lease.name, "epoch": lease.epoch},
        )
    ).one_or_none()
    if row is None:
        raise StaleError(f"lease {lease.name} epoch {lease.epoch} is no longer held")


async def mark(tx: Transaction, lease: Lease, moment: Moment) -> None:
    """Note the holder's clock beside the lease; the next holder compares its own with it (D6)."""
    await tx.execute(
        _MARK,
        {
            "name": lease.name,
            "epoch": lease.epoch,
            "at": moment.at,
            "boot_id": moment.boot_id,
            "boot_s": moment.boot_s,
        },
    )


async def left_s(tx: Transaction, name: str, holder: str, *, ttl_s: float = LEASE_TTL_S) -> float:
    """Until `acquire` may give it to this holder, in seconds; 0: now. Locks nothing, so nobody's renewal waits."""
    row = (await tx.execute(_LEFT, {"name": name, "holder": holder, "ttl": ttl_s})).one_or_none()
    return 0.0 if row is None else float(row.seconds)


async def last_mark(tx: Transaction, name: str) -> Moment | None:
    """What the last holder that noted its clock has noted."""
    row = (await tx.execute(_LAST_MARK, {"name": name})).one_or_none()
    if row is None or row.holder_at is None:
        return None
    return Moment(row.holder_at, row.holder_boot_id, row.holder_boot_s)
