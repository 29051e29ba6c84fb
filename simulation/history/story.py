"""The log read again commit by commit, so that a check sees the rows as they were and as they became."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from simulation.history.log import Event, Log
from simulation.history.requests.hosts import Hosts, read_hosts
from simulation.memory.store import Change
from simulation.memory.tables import Key, Row
from weighbridge.replicas.model import ReplicaLimits
from weighbridge.rollouts.model import RolloutLimits
from weighbridge.storage.tables import REPLICA_FINAL

ACTIVE = ("in_progress", "rolling_back")
WANTED = ("pending", "starting", "warming", "ready")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that the world ran with."""

    rollout: RolloutLimits
    replica: ReplicaLimits


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that did not hold, with the number of the event that shows it."""

    invariant: str
    event: int
    words: str


@dataclass(slots=True)
class Commit:
    """One transaction's changes, and the world's rows with them (`tables`)."""

    first: Event
    changes: list[Change]
    tables: dict[str, dict[Key, Row]]

    def of(self, table: str) -> Iterator[Change]:
        return (change for change in self.changes if change.table == table)

    def after(self, table: str) -> Iterable[Row]:
        return self.tables[table].values()

    def before(self, table: str) -> list[Row]:
        changed = {c.key: c.before for c in self.of(table)}
        rows = [row for key, row in self.tables[table].items() if key not in changed]
        return rows + [row for row in changed.values() if row is not None]

    def active(self, endpoint_id: object) -> Row | None:
        """The rollout that moved this endpoint when the transaction began."""
        for row in self.before("deployments"):
            if row["endpoint_id"] == endpoint_id and row["status"] in ACTIVE:
                return row
        return None

    def shape(self, endpoint_id: object) -> tuple[int, int, int]:
        """T, U and S that hold for what this transaction decides."""
        row = self.active(endpoint_id) or self.tables["endpoints"][endpoint_id,]
        gone = row.get("deleted_at") is not None
        size, unavailable, surge = row["replicas"], row["max_unavailable"], row["max_surge"]
        assert isinstance(size, int)
        assert isinstance(unavailable, int)
        assert isinstance(surge, int)
        return (0 if gone else size), unavailable, surge

    def version(self, deployment_id: object) -> object:
        """Of a deployment, by id; None without one."""
        row = self.tables["deployments"].get((deployment_id,))
        return None if row is None else row["version_id"]


@dataclass(slots=True)
class Story:
    """A whole log, with what several checks ask of it."""

    log: Log
    limits: Limits
    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """How often each invariant was looked at."""
    probes: defaultdict[object, list[Event]] = field(default_factory=lambda: defaultdict(list))
    lives: defaultdict[object, list[Event]] = field(default_factory=lambda: defaultdict(list))
    """By replica: launched, started, exited, lost, forgotten."""
    ready_since: dict[object, float] = field(default_factory=dict)
    calm_at_s: float = 0.0
    counted: list[tuple[int, float, Row]] = field(default_factory=list)
    """Requests in the database: the event that brought each, its time, the row."""

    of_probes: list[Event] = field(default_factory=list)
    """Changes of sets of acceptance probes."""
    hosts: Hosts = field(default_factory=Hosts)

    def __post_init__(self) -> None:
        self.hosts = read_hosts(self.log)
        for event in self.log.of("probed"):
            self.probes[event.facts["replica"]].append(event)
        for event in self.log.of("launched", "started", "exited", "lost", "forgotten"):
            self.lives[event.facts["replica"]].append(event)
        for event in self.log.of("row"):
            if event.facts["table"] == "acceptance_probes":
                self.of_probes.append(event)
            if event.facts["table"] == "usage_requests":
                change = event.facts["change"]
                assert isinstance(change, Change)
                if change.after is not None:
                    self.counted.append((event.number, event.at_s, change.after))
        for event in self.log.of("calm"):
            self.calm_at_s = event.at_s

    def commits(self) -> Iterator[Commit]:
        """Each commit in turn; its tables are those after it, until the next is asked for."""
        tables: defaultdict[str, dict[Key, Row]] = defaultdict(dict)
        commit: Commit | None = None
        for event in self.log.of("row"):
            change = event.facts["change"]
            assert isinstance(change, Change)
            if commit is not None and commit.first.facts["tx"] != event.facts["tx"]:
                yield self._noted(commit)
                commit = None
            if commit is None:
                commit = Commit(event, [], tables)
            commit.changes.append(change)
            if change.after is None:
                tables[change.table].pop(change.key, None)
            else:
                tables[change.table][change.key] = change.after
        if commit is not None:
            yield self._noted(commit)

    def _noted(self, commit: Commit) -> Commit:
        for change in commit.of("replicas"):
            if became(change, "state") == "ready":
                replica = change.key[0]
                probe = self.last_probe(replica, commit.first.number)
                self.ready_since[replica] = commit.first.at_s if probe is None else probe.at_s
        return commit

    def last_probe(self, replica: object, before: int) -> Event | None:
        found = None
        for event in self.probes[replica]:
            if event.number > before:
                break
            found = event
        return found

    def alive(self, replica: object, number: int) -> bool:
        """Whether a process of this replica ran at that event."""
        alive = False
        for event in self.lives[replica]:
            if event.number > number:
                break
            alive = event.kind == "started" or (alive and event.kind == "launched")
        return alive

    def available(self, rows: Iterable[Row], endpoint_id: object, at_s: float) -> list[Row]:
        """Ready, routed, and ready for long enough by the monotonic clock (R2, D6)."""
        least_s = self.limits.rollout.min_ready_s
        return [
            r
            for r in rows
            if r["endpoint_id"] == endpoint_id
            and r["state"] == "ready"
            and r["routed_at"] is not None
            and at_s >= self.ready_since.get(r["id"], at_s) + least_s
        ]


def became(change: Change, column: str) -> object:
    """The new value of a column if this change gave it one; None otherwise."""
    if change.after is None:
        return None
    if change.before is not None and change.before[column] == change.after[column]:
        return None
    return change.after[column]


def drained(commit: Commit) -> list[Row]:
    """Ready replicas that this transaction took out of service of its own will."""
    return [
        c.before
        for c in commit.of("replicas")
        if c.before is not None
        and c.before["state"] == "ready"
        and became(c, "state") == "draining"
        and c.after is not None
        and c.after["reason"] == "replaced"
    ]


def open_replicas(rows: Iterable[Row], endpoint_id: object) -> list[Row]:
    return [r for r in rows if r["endpoint_id"] == endpoint_id and r["state"] not in REPLICA_FINAL]


def is_canary(deployment: Row) -> bool:
    """Whether it stays beside its base until somebody promotes it."""
    return deployment["traffic_percent"] is not None and deployment["promoted_at"] is None


def canary_replicas(deployment: Row) -> int:
    """How many replicas a canary's share asks for; one of the base has room in any case."""
    size, surge, percent = (
        deployment[name] for name in ("replicas", "max_surge", "traffic_percent")
    )
    assert isinstance(size, int)
    assert isinstance(surge, int)
    assert isinstance(percent, int)
    return max(1, min(ceil(Fraction(size * percent, 100)), size, size + surge - 1))


def whole_canary(deployment: Row) -> bool:
    return is_canary(deployment) and deployment["updated_replicas"] == canary_replicas(deployment)


CommitCheck = Callable[[Story, Commit], Iterable[str]]
StoryCheck = Callable[[Story], Iterable[tuple[Event, str]]]
COMMIT_CHECKS: list[tuple[str, str, CommitCheck]] = []
STORY_CHECKS: list[tuple[str, StoryCheck]] = []


def at_commits(invariant: str, table: str) -> Callable[[CommitCheck], CommitCheck]:
    """Look at each commit that changes a table."""

    def register(check: CommitCheck) -> CommitCheck:
        COMMIT_CHECKS.append((invariant, table, check))
        return check

    return register


def at_end(invariant: str) -> Callable[[StoryCheck], StoryCheck]:
    """Look at the whole log, once."""

    def register(check: StoryCheck) -> StoryCheck:
        STORY_CHECKS.append((invariant, check))
        return check

    return register
