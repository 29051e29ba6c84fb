"""Checks of control planes: durability, leases, and that nothing ever broke (D1, D2, D5, D6, no exceptions, rest)."""

import re
from collections.abc import Iterable, Iterator

from simulation.history.log import Event
from simulation.history.story import Commit, Story, at_commits, at_end

RESUME_S = 30.0
SKEW_S = 1.5
"""How much two clocks of control planes may differ before it counts as a jump, and one look of a reconciler."""


@at_end("D1")
def d1_what_was_answered_is_there(story: Story) -> Iterator[tuple[Event, str]]:
    there = {event.facts["key"] for event in story.log.of("row")}
    for event in story.log.of("answered"):
        result = event.facts.get("result")
        if result:
            story.counts["D1"] += 1
            if result not in there:
                yield event, f"{event.facts['wish']} was answered with {result}, which is nowhere"


@at_end("D2")
def d2_work_goes_on_soon_after_all_is_mended(story: Story) -> Iterator[tuple[Event, str]]:
    """A controller holds the lease again within 30 s."""
    for calm in story.log.of("calm"):
        story.counts["D2"] += 1
        later = [
            e
            for e in story.log.of("row")
            if e.number > calm.number
            and e.facts["table"] == "leases"
            and e.facts["key"] == "controller"
        ]
        end_s = story.log.events[-1].at_s if not later else later[0].at_s
        if end_s > calm.at_s + RESUME_S:
            yield calm, f"nobody leads within {RESUME_S:g} s"


@at_commits("D5", "leases")
def d5_epochs_only_grow(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("leases"):
        before, after = change.before, change.after
        if before is not None and after is not None:
            old, new = before["epoch"], after["epoch"]
            assert isinstance(old, int)
            assert isinstance(new, int)
            if new < old or (new == old and before["holder"] != after["holder"]):
                yield f"{change.key[0]}: epoch {old} of {before['holder']}, then {new}"


@at_commits("D5", "replicas")
def d5_only_the_holder_writes_replicas(story: Story, commit: Commit) -> Iterable[str]:
    yield from _holds(commit)


@at_commits("D5", "deployments")
def d5_only_the_holder_moves_deployments(story: Story, commit: Commit) -> Iterable[str]:
    """People submit, cancel and promote without a lease; they touch no counters."""
    if any(c.before is not None and _counted(c.before, c.after) for c in commit.of("deployments")):
        yield from _holds(commit)


def _counted(before: dict[str, object], after: dict[str, object] | None) -> bool:
    if after is not None and before["promoted_at"] is None and after["promoted_at"] is not None:
        # From now on it is to make progress again.
        return False
    names = ("updated_replicas", "updated_max", "failures", "progress_at")
    return after is not None and any(before[name] != after[name] for name in names)


def _holds(commit: Commit) -> Iterator[str]:
    lease = commit.tables["leases"].get(("controller",))
    if lease is None or lease["epoch"] != commit.first.epoch:
        held = None if lease is None else lease["epoch"]
        yield f"epoch {commit.first.epoch} wrote while {held} is the lease's"


_OVERDUE = {
    "deployments": re.compile(r"(?:not finished|no further replica became ready) within (\S+) s"),
    "replicas": re.compile(
        r"(?:did not answer|was not ready) within (\S+) s|(\d+) requests cut at the drain deadline"
    ),
}
_BEGINS = {
    "deployments": ("in_progress",),
    "replicas": ("starting", "warming", "draining"),
}


@at_end("D6")
def d6_no_deadline_passes_before_its_time(story: Story) -> Iterator[tuple[Event, str]]:
    """Where a rollout or a replica ends for want of time, that time has passed on the monotonic clock."""
    began: dict[object, float] = {}
    for event in story.log.of("row"):
        table, key = event.facts["table"], event.facts["key"]
        overdue = _OVERDUE.get(str(table))
        if overdue is None:
            continue
        changed = event.facts["changed"]
        assert isinstance(changed, dict)
        state = changed.get("status", changed.get("state"))
        late = overdue.match(str(changed.get("reason", ""))) if state is not None else None
        if late is not None and key in began:
            story.counts["D6"] += 1
            limit_s = story.limits.replica.drain_s if late[1] is None else float(late[1])
            passed_s = event.at_s - began[key]
            if passed_s < limit_s - SKEW_S:
                yield event, f"{key}: {late[0]}, after {passed_s:.1f} s"
        if state in _BEGINS[str(table)]:
            began[key] = event.at_s


@at_end("B0")
def nothing_breaks(story: Story) -> Iterator[tuple[Event, str]]:
    """Whatever happens, no pass ends in an exception that nobody foresaw."""
    story.counts["B0"] += 1
    for event in story.log.of("broken"):
        yield event, str(event.facts["words"])


@at_end("rest")
def a_mended_world_comes_to_rest(story: Story) -> Iterator[tuple[Event, str]]:
    """Rollouts and syncs have ended, T replicas are ready and routed, nothing else is left (W5, R9)."""
    for event in story.log.of("end"):
        story.counts["rest"] += 1
        if not event.facts["rested"]:
            yield event, f"no rest: {event.facts['unrest']}"
