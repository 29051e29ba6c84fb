"""Gateway hosts in a log: whose workers are whose, and when each host's lease ran, told by its reports alone.

A lease runs for `HOST_LEASE_S` of the world's own time after the commit of a report, whatever any clock says.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from simulation.history.log import Event, Log
from simulation.memory.store import Change
from weighbridge.routing.hosts.model import HOST_LEASE_S

SLACK_S = 0.5
"""A row tells of a moment before its commit."""


@dataclass(slots=True)
class Hosts:
    host_of: dict[object, str] = field(default_factory=dict)
    """By worker; not those beside the control plane."""
    reports: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When each was committed, by a host's name, and by its id, which is another after a boot."""
    left: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When its row was taken away, after the end of its workers."""
    taken: defaultdict[object, list[tuple[int, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By worker: the event with which it began with a table, and since when its host has had that table."""
    named: dict[object, frozenset[object]] = field(default_factory=dict)
    """The replicas of each routing table, by its generation."""

    def ran(self, host: str, begin_s: float, end_s: float) -> bool:
        """Whether its lease ran from the one to the other without a break."""
        times, left = self.reports[host], self.left[host]
        first = bisect_right(times, begin_s) - 1
        if first < 0 or bisect_right(left, end_s) > bisect_right(left, times[first]):
            return False
        times = [*times[first : bisect_right(times, end_s)], end_s]
        return all(after <= one + HOST_LEASE_S - SLACK_S for one, after in pairwise(times))

    def bound(self, worker: object, event: Event) -> bool:
        """Whether the control plane has had to wait for this worker's host ever since that took the table by which the
        worker routes; for what was drained while the lease did not run, nobody has waited.
        """
        host = self.host_of.get(worker)
        if host is None:
            return True
        taken = self.taken[worker]
        place = bisect_left(taken, (event.number, 0.0)) - 1
        return place >= 0 and self.ran(host, taken[place][1], event.at_s)


def read_hosts(log: Log) -> Hosts:
    hosts = Hosts()
    for event in log.of("host.started"):
        workers = event.facts["workers"]
        assert isinstance(workers, list)
        hosts.host_of |= dict.fromkeys(workers, event.process)
    if not hosts.host_of:
        return hosts
    since_s: dict[tuple[object, object], float] = {}
    for event in log.of("applied", "worker.started"):
        worker = event.facts["worker"]
        had = hosts.host_of.get(worker), event.facts["generation"]
        hosts.taken[worker].append((event.number, since_s.setdefault(had, event.at_s)))
    _read_leases(hosts, log)
    for event in log.of("routes"):
        replicas = event.facts["replicas"]
        assert isinstance(replicas, list)
        hosts.named[event.facts["generation"]] = frozenset(replicas)
    return hosts


def _read_leases(hosts: Hosts, log: Log) -> None:
    """A row that goes while workers live ends no lease: those still route."""
    alive: set[object] = set()
    for event in log.of("worker.started", "worker.died", "row"):
        if event.kind == "worker.started":
            alive.add(event.facts["worker"])
        elif event.kind == "worker.died":
            alive.discard(event.facts["worker"])
        elif event.facts["table"] == "gateway_hosts":
            change = event.facts["change"]
            assert isinstance(change, Change)
            row = change.before if change.after is None else change.after
            assert row is not None
            times = hosts.left if change.after is None else hosts.reports
            if change.after is None and row["name"] in {hosts.host_of.get(one) for one in alive}:
                continue
            for name in ("name", "id"):
                times[str(row[name])].append(event.at_s)
