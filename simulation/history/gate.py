"""Checks of the gate: it turns back what answers worse than its base, and nothing else (B3, row 7)."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from math import ceil

from simulation.history.log import Event
from simulation.history.story import Commit, Story, at_commits
from simulation.memory.tables import Row

LOOK_S = 2.5
"""A verdict is of answers that were counted this long ago at most."""
PAUSED_S = 60.0
"""A control plane that was stopped this long ago may still write what it has decided before."""
WORDS = {
    "5xx ": "errors",
    "empty answers ": "empty",
    "time to first token ": "slow",
}
"""How the gate's verdicts begin, and what they speak of."""


@at_commits("B3", "deployments")
def b3_the_gate_turns_back_what_answers_worse(story: Story, commit: Commit) -> Iterable[str]:
    """What is done was not worse than its base by then, and whatever the gate turned back was."""
    if not story.limits.rollout.gate.requests_min:
        return
    for change in commit.of("deployments"):
        before, after = change.before, change.after
        if before is None or after is None or before["status"] != "in_progress":
            continue
        if after["status"] == "in_progress":
            continue
        seen = list(_verdicts(story, commit, before))
        verdict = _verdict(after)
        if verdict is not None and not any(verdict in worse for worse in seen):
            yield f"{before['id']} was turned back: {after['error_message']}; counted: {seen[0]}"
        if after["status"] == "done" and all(seen) and not _paused(story, commit.first):
            yield f"{before['id']} is done, and its answers are worse: {seen}"


@at_commits("B3", "deployments")
def b3_the_gate_turns_back_nothing_that_answers_alike(
    story: Story, commit: Commit
) -> Iterable[str]:
    """Answers without a token, and slow ones, come from nothing else here."""
    manners = {e.facts["digest"]: e.facts["manner"] for e in story.log.of("manner")}
    for change in commit.of("deployments"):
        row = change.after
        if row is None or change.before is None or change.before["status"] != "in_progress":
            continue
        verdict, manner = _verdict(row), manners.get(row["digest"], "alike")
        if verdict in ("empty", "slow") and verdict != manner:
            yield f"{row['id']} was turned back: {row['error_message']}; its answers are {manner}"


def _verdict(row: Row) -> str | None:
    """What the gate has against a deployment that was turned back."""
    if row["status"] not in ("rolling_back", "error"):
        return None
    message = str(row["error_message"])
    return next((what for words, what in WORDS.items() if message.startswith(words)), None)


def _paused(story: Story, event: Event) -> bool:
    return any(
        e.facts["name"] == "pause" and event.at_s - PAUSED_S < e.at_s < event.at_s
        for e in story.log.of("fault")
    )


def _verdicts(story: Story, commit: Commit, deployment: Row) -> Iterator[frozenset[str]]:
    """What speaks against a version by the answers counted until now, and until some moments before."""
    number, at_s = commit.first.number, commit.first.at_s
    rows = [(at, row) for n, at, row in story.counted if n < number]
    for until_s in sorted({at_s, at_s - LOOK_S, *(a for a, _ in rows if at_s - LOOK_S < a)}):
        yield _worse(
            story, commit, deployment, [row for counted_s, row in rows if counted_s <= until_s]
        )


def _worse(story: Story, commit: Commit, deployment: Row, rows: Sequence[Row]) -> frozenset[str]:
    """In which ways the target's answers are worse than the base's, by the limits of the world."""
    limits = story.limits.rollout.gate
    started = deployment["started_at"]
    assert isinstance(started, datetime)
    earlier = started - timedelta(seconds=story.limits.rollout.gate_base_s)
    base = commit.tables["deployments"].get((deployment["base_deployment_id"],))
    number, other = deployment["version_number"], None if base is None else base["version_number"]
    if number == other:
        return frozenset()
    here = [r for r in rows if r["endpoint_id"] == deployment["endpoint_id"]]
    mine = [r for r in here if _speaks_of(r, number) and _ended(r) >= started]
    theirs = [r for r in here if _speaks_of(r, other) and _ended(r) >= earlier]
    if len(mine) < limits.requests_min:
        return frozenset()
    if len(theirs) < limits.requests_min:
        theirs = []
    found = set()
    for what, least, ratio in (
        ("errors", limits.errors_share, limits.errors_ratio),
        ("empty", limits.empty_share, limits.empty_ratio),
    ):
        (bad, of), (their_bad, their_of) = _bad(what, mine, number), _bad(what, theirs, other)
        if bad < limits.events_min or Fraction(bad, of) < Fraction(least):
            continue
        if not their_of or Fraction(bad, of) >= Fraction(ratio) * Fraction(their_bad, their_of):
            found.add(what)
    if _slow(story, _own(mine, number), _own(theirs, other)):
        found.add("slow")
    return frozenset(found)


def _slow(story: Story, mine: Sequence[Row], theirs: Sequence[Row]) -> bool:
    limits = story.limits.rollout.gate
    ours_s, theirs_s = _times_s(mine), _times_s(theirs)
    if len(ours_s) < limits.requests_min:
        return False
    if len(theirs_s) < limits.requests_min:
        return _p95(ours_s) > limits.ttft_max_s
    return _p95(ours_s) > max(limits.ttft_min_s, limits.ttft_ratio * _p95(theirs_s))


def _speaks_of(row: Row, version: object) -> bool:
    """Also when another version answered in the end."""
    return version in (row["version"], row["failed_version"])


def _own(rows: Sequence[Row], version: object) -> list[Row]:
    return [row for row in rows if row["version"] == version]


def _bad(what: str, rows: Sequence[Row], version: object) -> tuple[int, int]:
    own = _own(rows, version)
    if what == "errors":
        failed = [r for r in rows if r["failed_version"] == version]
        final = [r for r in own if r["failed_version"] != version and _error(r)]
        return len(failed) + len(final), len(rows)
    answered = [r for r in own if r["status"] == 200]
    return sum(r["completion_tokens"] == 0 for r in answered), len(answered)


def _error(row: Row) -> bool:
    """A stream that broke with its replica is no answer of the version's."""
    return int(str(row["status"])) >= 500 and not row["cut"]


def _times_s(rows: Sequence[Row]) -> list[float]:
    """From when the replica was asked that answered."""
    return sorted(
        float(str(r["ttft_s"])) - float(str(r["asked_s"])) for r in rows if r["ttft_s"] is not None
    )


def _p95(times_s: Sequence[float]) -> float:
    return times_s[max(1, ceil(0.95 * len(times_s))) - 1]


def _ended(row: Row) -> datetime:
    ended = row["ended_at"]
    assert isinstance(ended, datetime)
    return ended
