"""Checks of canaries: their share of requests and of replicas, and that they wait for somebody (R2, R5, B3)."""

from collections import Counter
from collections.abc import Iterable, Iterator
from math import exp, lgamma, log

from simulation.history.log import Event
from simulation.history.story import (
    ACTIVE,
    WANTED,
    Commit,
    Story,
    at_commits,
    at_end,
    became,
    canary_replicas,
    drained,
    is_canary,
)
from simulation.memory.tables import Row

CHANCE_MIN = 1e-9
"""A count that an honest share gives more seldom than this counts as a wrong share."""


@at_end("R5")
def r5_a_canary_gets_its_share_of_the_requests(story: Story) -> Iterator[tuple[Event, str]]:
    """Of the first attempts for which both versions had a replica (issue 4: canary share)."""
    total: Counter[tuple[object, object]] = Counter()
    hits: Counter[tuple[object, object]] = Counter()
    last: dict[tuple[object, object], Event] = {}
    for event in story.log.of("shared"):
        key = event.facts["version"], event.facts["percent"]
        total[key] += 1
        hits[key] += bool(event.facts["hit"])
        last[key] = event
    for key, event in last.items():
        story.counts["R5"] += 1
        version, percent = key
        assert isinstance(percent, int)
        if _chance(hits[key], total[key], percent / 100) < CHANCE_MIN:
            words = f"{hits[key]} of {total[key]} requests went to version {version}"
            yield event, f"{words}, whose share is {percent} %"


def _chance(hits: int, total: int, share: float) -> float:
    """How often a count as far out as this, or farther, happens on its side of the share."""
    if share == 0:
        return float(hits == 0)
    counts = range(hits, total + 1) if hits > total * share else range(hits + 1)
    return sum(
        exp(
            lgamma(total + 1)
            - lgamma(n + 1)
            - lgamma(total - n + 1)
            + n * log(share)
            + (total - n) * log(1 - share)
        )
        for n in counts
    )


def _canary_of(commit: Commit, endpoint_id: object) -> Row | None:
    """The canary under way when the transaction began."""
    active = commit.active(endpoint_id)
    if active is None or active["status"] != "in_progress" or not is_canary(active):
        return None
    return active


@at_commits("R2", "replicas")
def r2_beside_a_canary_both_versions_keep_their_replicas(
    story: Story, commit: Commit
) -> Iterable[str]:
    """Nothing voluntary takes either version below its part, or below what there was of it."""
    gone = drained(commit)
    for endpoint_id in {r["endpoint_id"] for r in gone}:
        canary = _canary_of(commit, endpoint_id)
        if canary is None:
            continue
        size, part = canary["replicas"], canary_replicas(canary)
        assert isinstance(size, int)
        base = commit.version(canary["base_deployment_id"])
        parts = {canary["version_id"]: part, base: max(1, size - part)}
        for version, least in parts.items():
            there = [
                sum(
                    r["version_id"] == version
                    for r in story.available(rows, endpoint_id, commit.first.at_s)
                )
                for rows in (commit.before("replicas"), commit.after("replicas"))
            ]
            replaced = any(r["version_id"] == version for r in gone)
            if replaced and there[1] < min(least, there[0]):
                yield f"{there[0]} of {version} available, then {there[1]}; the canary leaves it {least}"


@at_commits("B3", "replicas")
def b3_a_canary_starts_no_more_than_its_part(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("replicas"):
        row = change.after
        if change.before is not None or row is None:
            continue
        canary = _canary_of(commit, row["endpoint_id"])
        if canary is None or canary["version_id"] != row["version_id"]:
            continue
        mine = [
            r
            for r in commit.after("replicas")
            if r["version_id"] == row["version_id"]
            and r["endpoint_id"] == row["endpoint_id"]
            and r["state"] in WANTED
        ]
        if len(mine) > canary_replicas(canary):
            yield f"{len(mine)} replicas are wanted of the canary {canary['id']}"


@at_commits("B3", "deployments")
def b3_a_canary_waits_for_its_promotion(story: Story, commit: Commit) -> Iterable[str]:
    """It is never done without; and only what is under way, a canary and not cancelled is promoted."""
    for change in commit.of("deployments"):
        before, after = change.before, change.after
        if before is None or after is None:
            continue
        if became(change, "status") == "done" and is_canary(after):
            yield f"the canary {change.key[0]} is done, and nobody promoted it"
        if before["promoted_at"] is not None and after["promoted_at"] is None:
            yield f"the promotion of {change.key[0]} was taken back"
        if before["promoted_at"] is None and after["promoted_at"] is not None:
            fit = before["status"] == "in_progress" and before["traffic_percent"] is not None
            if not fit or before["cancel_requested"]:
                yield f"{change.key[0]} was promoted while it was {before['status']}"
        if before["traffic_percent"] != after["traffic_percent"] and not (
            before["status"] == "not_started" and after["traffic_percent"] is None
        ):
            yield f"the share of {change.key[0]} became {after['traffic_percent']}"


@at_commits("B3", "deployments")
def b3_one_version_serves_after_a_canary(story: Story, commit: Commit) -> Iterable[str]:
    """The canary's after its promotion, the base's after it was cancelled or turned back."""
    for change in commit.of("deployments"):
        before, after = change.before, change.after
        if before is None or after is None or before["status"] not in ACTIVE:
            continue
        status = became(change, "status")
        if after["traffic_percent"] is None or status not in ("done", "rolled_back", "cancelled"):
            continue
        wanted = after["version_id"]
        if status != "done":
            wanted = commit.version(after["base_deployment_id"])
        serving = {
            r["version_id"]
            for r in commit.after("replicas")
            if r["endpoint_id"] == after["endpoint_id"] and r["state"] == "ready"
        }
        if serving != {wanted}:
            yield f"{sorted(map(str, serving))} serve after {change.key[0]} ended {status}"


@at_end("B3")
def b3_an_answered_promotion_is_kept(story: Story) -> Iterator[tuple[Event, str]]:
    """From the moment of its answer on, the deployment is no canary any more (D1)."""
    promoted = {
        event.facts["key"]: event.number
        for event in reversed(story.log.of("row"))
        if event.facts["table"] == "deployments" and _changed(event).get("promoted_at") is not None
    }
    for event in story.log.of("answered"):
        if event.facts["wish"] == "promote" and event.facts.get("result"):
            story.counts["B3"] += 1
            named = event.facts["result"]
            if promoted.get(named, event.number) >= event.number:
                yield event, f"{named} was said to be promoted, and is not"


def _changed(event: Event) -> dict[str, object]:
    changed = event.facts["changed"]
    assert isinstance(changed, dict)
    return changed
