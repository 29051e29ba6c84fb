"""What a gateway host reports, and which hosts the control plane has to wait for. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from weighbridge.routing.acks import WorkerAck

HOST_LEASE_S = 15.0
"""A host that has not reported for this long is taken for gone."""
REPORT_S = 3.0
"""At most between two reports."""
RETURN_S = 6.5
"""How long a host may take to report again once the database is back: a pause, and a connection that is slow."""
GAP_MAX_S = 5.0
"""Between two looks at the hosts that still count as looking without a break.

A database that was away for less leaves each host the time to report: its last report may be `REPORT_S` old, its next
may take `RETURN_S`, and all that is less than a lease.
"""


@dataclass(frozen=True, slots=True)
class HostReport:
    """One moment of a host: `in_flight` was read after the generations, never before (G5).

    A generation is applied when the host's file has it, so that workers to come read it, and each worker
    that lives has acknowledged it. `in_flight` has the slots with requests alone.
    """

    routes_generation: int
    keys_generation: int
    workers: tuple[WorkerAck, ...]
    in_flight: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Host:
    """`expired`: its lease has ended by the database's clock; every report moves `expires_at`."""

    id: str
    name: str
    expires_at: datetime
    expired: bool
    report: HostReport


class Watch:
    """Which hosts count for somebody who looks at them again and again.

    One counts until the same report of it was seen for a lease's length by the looker's own clock, without a break. The
    database's clock has no say: it may be set (D6), and after its outage all leases have ended although nobody is gone.
    """

    def __init__(self) -> None:
        self._looked_s = 0.0
        self._seen: Mapping[str, tuple[datetime, float]] = {}
        """The end of each host's lease, which every report moves, and since when it is known."""
        self._gone: Mapping[str, datetime] = {}
        """Those that do not count, nor will after a break, until they report again."""

    def look(self, hosts: Sequence[Host], now_s: float) -> Sequence[Host]:
        """Those that may still route by what they reported last. Call it at each look that succeeded; `now_s` is of a
        clock that is never set.
        """
        before = {} if now_s - self._looked_s > GAP_MAX_S else self._seen
        self._looked_s = now_s
        seen: dict[str, tuple[datetime, float]] = {}
        gone: dict[str, datetime] = {}
        for host in hosts:
            end, since_s = before.get(host.id, (None, now_s))
            since_s = since_s if end == host.expires_at else now_s
            seen[host.id] = host.expires_at, since_s
            silent = now_s - since_s >= HOST_LEASE_S
            if silent or self._gone.get(host.id) == host.expires_at:
                gone[host.id] = host.expires_at
        self._seen, self._gone = seen, gone
        return [host for host in hosts if host.id not in gone]
