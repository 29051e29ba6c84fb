"""Checks of rollouts (R1 to R14, R17, R18)."""

from collections.abc import Iterable, Iterator

from simulation.history.log import Event
from simulation.history.story import (
    ACTIVE,
    WANTED,
    Commit,
    Story,
    at_commits,
    at_end,
    became,
    drained,
    is_canary,
    open_replicas,
    whole_canary,
)
from simulation.memory.store import Change
from simulation.memory.tables import Row
from weighbridge.replicas.weights.prefetch import ON_THEIR_WAY
from weighbridge.rollouts.model import TRANSITIONS, RolloutStatus
from weighbridge.storage.tables import ROLLOUT_FINAL


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _added(commit: Commit) -> list[Row]:
    return [c.after for c in commit.of("replicas") if c.before is None and c.after is not None]


@at_commits("R1", "deployments")
def r1_one_rollout_at_a_time_in_order(story: Story, commit: Commit) -> Iterable[str]:
    rows = list(commit.after("deployments"))
    active = [r["id"] for r in rows if r["status"] in ACTIVE]
    if len(active) > 1:
        yield f"{active} are active at once"
    for change in commit.of("deployments"):
        if became(change, "status") == "in_progress" and change.after is not None:
            mine = _number(change.after["sequence"])
            ahead = [
                r["id"]
                for r in rows
                if r["status"] == "not_started" and _number(r["sequence"]) < mine
            ]
            if ahead:
                yield f"{change.key[0]} starts before {ahead}"


@at_commits("R2", "replicas")
def r2_nothing_voluntary_goes_below_the_floor(story: Story, commit: Commit) -> Iterable[str]:
    for endpoint_id in {r["endpoint_id"] for r in drained(commit)}:
        at_s = commit.first.at_s
        before = story.available(commit.before("replicas"), endpoint_id, at_s)
        after = story.available(commit.after("replicas"), endpoint_id, at_s)
        size, unavailable, _ = commit.shape(endpoint_id)
        floor = size - unavailable
        active = commit.active(endpoint_id)
        if (
            active is not None
            and active["base_deployment_id"] is None
            and active["cancel_requested"]
        ):
            # A first deployment that is taken back leaves nothing, as asked.
            floor = 0
        if len(after) < min(floor, len(before)):
            yield f"{len(before)} available, {len(after)} after draining, floor {floor}"


@at_commits("R3", "replicas")
def r3_nothing_starts_beyond_the_slots(story: Story, commit: Commit) -> Iterable[str]:
    for endpoint_id in {r["endpoint_id"] for r in _added(commit)}:
        size, _, surge = commit.shape(endpoint_id)
        held = len(open_replicas(commit.after("replicas"), endpoint_id))
        if held > size + surge:
            yield f"{held} replicas hold slots, {size} + {surge} are allowed"


@at_commits("R6", "replicas")
def r6_two_versions_target_and_base(story: Story, commit: Commit) -> Iterable[str]:
    """What a rollout that ended in `error` left behind may still be there; nothing new of it is started."""
    for row in _added(commit):
        active = commit.active(row["endpoint_id"])
        endpoint = commit.tables["endpoints"][row["endpoint_id"],]
        base = active["base_deployment_id"] if active else endpoint["base_deployment_id"]
        allowed = {commit.version(base), active["version_id"] if active else None}
        if row["version_id"] not in allowed:
            yield f"{row['id']} of {row['version_id']} starts; allowed are {sorted(map(str, allowed))}"
    for change in commit.of("replicas"):
        if became(change, "state") == "ready" and change.after is not None:
            yield from _mixed(commit, change.after["endpoint_id"])


def _mixed(commit: Commit, endpoint_id: object) -> Iterator[str]:
    rows = [r for r in commit.after("replicas") if r["endpoint_id"] == endpoint_id]
    ready = {r["version_id"] for r in rows if r["state"] == "ready"}
    left = {d["version_id"] for d in commit.after("deployments") if d["status"] == "error"}
    if len(ready - left) > 2:
        yield f"{sorted(map(str, ready))} are ready at once"


@at_commits("R7", "deployments")
def r7_what_was_asked_for_stays(story: Story, commit: Commit) -> Iterable[str]:
    yield from _fixed(commit, ("version_id", "version_number", "digest", "reference"), ())


@at_commits("R18", "deployments")
def r18_a_rollout_keeps_the_settings_it_started_with(story: Story, commit: Commit) -> Iterable[str]:
    columns = ("replicas", "max_unavailable", "max_surge", "base_deployment_id")
    yield from _fixed(commit, columns, ("not_started",))


def _fixed(commit: Commit, columns: Iterable[str], but_in: Iterable[str]) -> Iterator[str]:
    for change in commit.of("deployments"):
        before, after = change.before, change.after
        if before is not None and after is not None and str(before["status"]) not in but_in:
            for column in columns:
                if before[column] != after[column]:
                    yield f"{column} of {change.key[0]}: {before[column]} became {after[column]}"


@at_commits("R8", "deployments")
def r8_only_a_done_version_is_deployed(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("deployments"):
        if change.before is None and change.after is not None:
            row = change.after
            version = commit.tables["model_versions"][row["version_id"],]
            endpoint = commit.tables["endpoints"][row["endpoint_id"],]
            if version["status"] != "done" or version["manifest_digest"] != row["digest"]:
                yield f"{row['id']} of {version['id']}, which is {version['status']}"
            if version["deleted_at"] is not None:
                yield f"{row['id']} of the deleted {version['id']}"
            if version["org_id"] != endpoint["org_id"] or version["arch_id"] != endpoint["arch_id"]:
                yield f"{row['id']} of {version['id']}, which is not the endpoint's"


@at_commits("R10", "deployments")
def r10_updated_counts_available_targets(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("deployments"):
        row, status = change.after, became(change, "status")
        if row is None:
            continue
        updated, size = row["updated_replicas"], row["replicas"]
        if status == "done":
            there = story.available(commit.after("replicas"), row["endpoint_id"], commit.first.at_s)
            mine = [r for r in there if r["version_id"] == row["version_id"]]
            if updated != size or len(mine) < _number(size):
                yield f"{row['id']} is done with {updated} of {size}, {len(mine)} available"
        elif status in ("rolled_back", "cancelled") and updated != 0:
            yield f"{row['id']} is {status} with {updated} updated"


@at_commits("R11", "deployments")
def r11_final_is_final(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("deployments"):
        before, status = change.before, became(change, "status")
        if before is None:
            if status != "not_started":
                yield f"{change.key[0]} begins as {status}"
        elif before["status"] in ROLLOUT_FINAL:
            yield f"{change.key[0]} was {before['status']} and changed"
        elif status is not None and status not in TRANSITIONS[RolloutStatus(str(before["status"]))]:
            yield f"{change.key[0]} went from {before['status']} to {status}"


@at_commits("R12", "endpoints")
def r12_the_base_changes_at_done_only(story: Story, commit: Commit) -> Iterable[str]:
    done = {c.key[0] for c in commit.of("deployments") if became(c, "status") == "done"}
    for change in commit.of("endpoints"):
        base = became(change, "base_deployment_id")
        if base is not None and base not in done:
            yield f"the base became {base}, which did not end in this moment"


@at_commits("R12", "deployments")
def r12_done_makes_the_base(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("deployments"):
        if became(change, "status") == "done" and change.after is not None:
            endpoint = commit.tables["endpoints"][change.after["endpoint_id"],]
            if endpoint["base_deployment_id"] != change.key[0]:
                yield f"{change.key[0]} is done, the base is {endpoint['base_deployment_id']}"


@at_commits("R13", "deployments")
def r13_each_failure_counts_once(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("deployments"):
        before, after = change.before, change.after
        if before is None or after is None or before["status"] != "in_progress":
            continue
        counted = sum(
            became(c, "failure_counted") is True
            and c.after is not None
            and c.after["state"] == "failed"
            and c.after["deployment_id"] == change.key[0]
            for c in commit.of("replicas")
        )
        more = _number(after["failures"]) - _number(before["failures"])
        if more != counted:
            yield f"{change.key[0]}: {more} more failures, {counted} replicas accounted for"


@at_commits("R13", "replicas")
def r13_over_the_budget_nothing_more_is_touched(story: Story, commit: Commit) -> Iterable[str]:
    for row in drained(commit):
        after = commit.tables["deployments"].get((_active_id(commit, row["endpoint_id"]),))
        if after is None or after["status"] != "in_progress":
            continue
        size = _number(after["replicas"])
        if row["version_id"] == after["version_id"] or after["updated_replicas"] == size:
            continue
        if _number(after["failures"]) >= story.limits.rollout.failures_max(size):
            yield f"{row['id']} is drained after {after['failures']} failures of {after['id']}"


def _active_id(commit: Commit, endpoint_id: object) -> object:
    active = commit.active(endpoint_id)
    return None if active is None else active["id"]


@at_commits("R14", "deployments")
def r14_only_a_new_maximum_is_progress(story: Story, commit: Commit) -> Iterable[str]:
    """A drain, a missing place, weights on their way, a whole canary and its promotion excuse; a new controller
    begins to count anew (B0.5).
    """
    for change in commit.of("deployments"):
        before, after = change.before, change.after
        if before is None or after is None or before["status"] not in ACTIVE:
            continue
        for mark in ("updated_max", "restored_max"):
            if _number(after[mark]) < _number(before[mark]):
                yield f"{mark} of {change.key[0]} fell"
        if before["progress_at"] == after["progress_at"] or _rearmed(change):
            continue
        if is_canary(before) and (not is_canary(after) or whole_canary(after)):
            continue
        risen = any(after[m] != before[m] for m in ("updated_max", "restored_max", "status"))
        states = {r["state"] for r in commit.before("replicas")}
        excused = states & {"draining", "pending"} or ON_THEIR_WAY in str(after["reason"])
        if not risen and not excused:
            yield f"{change.key[0]} made progress out of nothing"


def _rearmed(change: Change) -> bool:
    before, after = change.before or {}, change.after or {}
    changed = {name for name, value in after.items() if before.get(name) != value}
    return changed <= {"progress_at", "started_at", "promoted_at", "revision"}


@at_commits("R17", "replicas")
def r17_nothing_starts_beside_enough_that_serve(story: Story, commit: Commit) -> Iterable[str]:
    for row in _added(commit):
        size, _, _ = commit.shape(row["endpoint_id"])
        same = [
            r
            for r in open_replicas(commit.after("replicas"), row["endpoint_id"])
            if r["version_id"] == row["version_id"] and r["state"] in WANTED
        ]
        if len(same) > size:
            yield f"{len(same)} replicas of {row['version_id']} are wanted, {size} are asked for"


@at_end("R9")
def r9_every_rollout_ends_in_bounded_time(story: Story) -> Iterator[tuple[Event, str]]:
    """Counted from its start, or a canary's promotion, or from the end of all misfortune, whichever is latest."""
    limits = story.limits.rollout
    began: dict[object, float] = {}
    for event in story.log.of("row"):
        if event.facts["table"] != "deployments":
            continue
        changed, key = event.facts["changed"], event.facts["key"]
        assert isinstance(changed, dict)
        status = changed.get("status")
        if status == "in_progress" or changed.get("promoted_at") is not None:
            began[key] = event.at_s
        elif status in ROLLOUT_FINAL and key in began:
            story.counts["R9"] += 1
            took_s = event.at_s - max(began[key], story.calm_at_s)
            most_s = limits.total_s + limits.rollback_progress_s * 6
            if took_s > most_s:
                yield event, f"{key} took {took_s:.0f} s, more than {most_s:.0f}"
