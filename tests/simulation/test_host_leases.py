"""When a simulated gateway host has to be waited for, as the checks read it from a log."""

from datetime import UTC, datetime

import pytest

from simulation.history.log import Log
from simulation.history.requests.hosts import read_hosts
from simulation.memory.store import Change

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Story:
    """A log of one host, whose clock the test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.log = Log(lambda: self.now_s, lambda: NOON)
        self.log.add("host.started", "h1", workers=["h1.worker0"])
        self.log.add("worker.started", worker="h1.worker0", generation=1)

    def reports(self, at_s: float) -> None:
        self._row(at_s, {"id": "h1:1", "name": "h1"})

    def leaves(self, at_s: float) -> None:
        self._row(at_s, None)

    def _row(self, at_s: float, after: dict[str, object] | None) -> None:
        self.now_s = at_s
        before: dict[str, object] = {"id": "h1:1", "name": "h1"}
        change = Change("gateway_hosts", ("h1:1",), before, after)
        self.log.add("row", table="gateway_hosts", key="h1:1", change=change)


@pytest.mark.parametrize(("died", "runs"), [(True, False), (False, True)])
def test_a_lease_ends_with_its_row_unless_workers_still_route(died: bool, runs: bool) -> None:
    story = Story()
    story.reports(1.0)
    if died:
        story.log.add("worker.died", worker="h1.worker0")
    story.leaves(3.0)
    hosts = read_hosts(story.log)
    assert hosts.ran("h1", 1.5, 2.5)
    assert hosts.ran("h1", 1.5, 4.0) is runs
    story.reports(5.0)
    hosts = read_hosts(story.log)
    assert hosts.ran("h1", 5.5, 6.0)
    assert hosts.ran("h1", 1.5, 6.0) is runs
