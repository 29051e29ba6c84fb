"""Checks of versions, aliases and weights (V, W)."""

from collections.abc import Iterable, Iterator

from simulation.history.log import Event
from simulation.history.story import ACTIVE, Commit, Story, at_commits, at_end, became
from weighbridge.storage.tables import REPLICA_FINAL


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


@at_commits("V1", "model_versions")
def v1_numbers_are_given_once(story: Story, commit: Commit) -> Iterable[str]:
    new = [c.after for c in commit.of("model_versions") if c.before is None and c.after is not None]
    for row in new:
        same = [r for r in commit.after("model_versions") if r["number"] == row["number"]]
        if len(same) > 1:
            yield f"version number {row['number']} is given twice"


@at_commits("V2", "model_versions")
def v2_numbers_have_no_gaps(story: Story, commit: Commit) -> Iterable[str]:
    if any(c.before is None for c in commit.of("model_versions")):
        numbers = sorted(_number(r["number"]) for r in commit.after("model_versions"))
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"version numbers are {numbers}"


@at_commits("V3", "aliases")
def v3_an_alias_names_one_version(story: Story, commit: Commit) -> Iterable[str]:
    names = [r["alias"] for r in commit.after("aliases")]
    if len(names) != len(set(names)):
        yield f"aliases {names}"


@at_commits("V5", "aliases")
def v5_a_taken_alias_is_not_stolen(story: Story, commit: Commit) -> Iterable[str]:
    """Its holder gives it up in a transaction of its own."""
    for change in commit.of("aliases"):
        if change.before is not None and became(change, "version_id") is not None:
            yield f"alias {change.key} went from {change.before['version_id']} to another at once"


@at_commits("V6", "model_versions")
def v6_a_version_in_use_is_not_deleted(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("model_versions"):
        if became(change, "deleted_at") is None:
            continue
        version = change.key[0]
        for r in commit.after("replicas"):
            if r["version_id"] == version and r["state"] not in REPLICA_FINAL:
                yield f"{version} was deleted while replica {r['id']} was {r['state']}"
        for d in commit.after("deployments"):
            if d["version_id"] == version and d["status"] in (*ACTIVE, "not_started"):
                yield f"{version} was deleted while deployment {d['id']} was {d['status']}"
        for e in commit.after("endpoints"):
            if e["deleted_at"] is None and commit.version(e["base_deployment_id"]) == version:
                yield f"{version} was deleted while it was the last good one of {e['id']}"


@at_commits("V7", "model_versions")
def v7_a_deleted_version_is_gone_at_once(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("model_versions"):
        if change.after is not None and change.after["deleted_at"] is not None:
            for alias in commit.after("aliases"):
                if alias["version_id"] == change.key[0]:
                    yield f"alias {alias['alias']} names the deleted {change.key[0]}"


@at_commits("V8", "model_versions")
def v8_bytes_of_a_done_version_never_change(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("model_versions"):
        before, after = change.before, change.after
        if before is not None and after is not None and before["status"] == "done":
            for column in ("status", "manifest_digest"):
                if before[column] != after[column]:
                    yield f"{column} of the done version {change.key[0]} changed"


@at_commits("W2", "model_versions")
def w2_done_comes_after_the_bytes(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("model_versions"):
        if became(change, "status") == "done" and change.after is not None:
            digest = change.after["manifest_digest"]
            at = commit.first.number
            if not any(
                e.facts["digest"] == digest and e.number < at for e in story.log.of("stored")
            ):
                yield f"version {change.key[0]} is done and its bytes {digest} are not stored"


@at_end("W1")
def w1_only_done_versions_are_opened(story: Story) -> Iterator[tuple[Event, str]]:
    done: dict[object, int] = {}
    for event in story.log.of("row"):
        row = event.facts["changed"]
        assert isinstance(row, dict)
        if event.facts["table"] == "model_versions" and row.get("status") == "done":
            change = event.facts["change"]
            done.setdefault(change.after["manifest_digest"], event.number)  # type: ignore[attr-defined]  # a Change
    for event in story.log.of("launched"):
        story.counts["W1"] += 1
        if done.get(event.facts["digest"], event.number) >= event.number:
            yield event, f"{event.facts['replica']} opens bytes that no done version names"
