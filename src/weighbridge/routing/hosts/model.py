"""What a gateway host reports, and which hosts the control plane has to wait for. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from weighbridge.routing.acks import WorkerAck

HOST_LEASE_S = 15.0
"""A host that has not reported for this long may be taken for gone."""
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


def counted(
    hosts: Iterable[Host], own_id: str, watched_s: float, gone: Mapping[str, datetime]
) -> Sequence[Host]:
    """The other hosts that may still route by what they reported last.

    One whose lease has ended counts until the looker has watched the hosts for a lease's length without a
    break: after an outage of the database all leases have ended, and nobody is gone. `gone` are those, with the end
    of their lease, that did not count before: nor do they until they report again.
    """
    return [
        host
        for host in hosts
        if host.id != own_id
        and not (
            host.expired and (watched_s >= HOST_LEASE_S or gone.get(host.id) == host.expires_at)
        )
    ]


class Watch:
    """For how long somebody has looked without a break, in seconds."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._last_s = 0.0

    def look(self, now_s: float) -> float:
        """Call it at each look that succeeded."""
        if self._began_s is None or now_s - self._last_s > GAP_MAX_S:
            self._began_s = now_s
        self._last_s = now_s
        return now_s - self._began_s
