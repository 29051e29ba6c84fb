"""Read a complete log and name every invariant that did not hold."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from simulation.history import (
    canaries,
    control,
    gate,
    pulls,
    replicas,
    rollouts,
    versions,
)
from simulation.history.log import Log
from simulation.history.requests import gateway, holds
from simulation.history.story import COMMIT_CHECKS, STORY_CHECKS, Breach, CommitCheck, Limits, Story

MODULES = (canaries, control, gate, gateway, holds, pulls, replicas, rollouts, versions)
"""They register their checks when they are read."""


def check(log: Log, limits: Limits) -> tuple[Sequence[Breach], Mapping[str, int]]:
    """The breaches in the order of their events, and how often each invariant was looked at."""
    story = Story(log, limits)
    by_table: defaultdict[str, list[tuple[str, CommitCheck]]] = defaultdict(list)
    for invariant, table, look in COMMIT_CHECKS:
        by_table[table].append((invariant, look))
    found = []
    for commit in story.commits():
        for table in {change.table: None for change in commit.changes}:
            for invariant, look in by_table[table]:
                story.counts[invariant] += 1
                found += [
                    Breach(invariant, commit.first.number, words) for words in look(story, commit)
                ]
    for invariant, look_back in STORY_CHECKS:
        found += [Breach(invariant, event.number, words) for event, words in look_back(story)]
    found.sort(key=lambda breach: (breach.event, breach.invariant))
    return found, story.counts


def known() -> Sequence[str]:
    """Every invariant that is checked."""
    return sorted({check[0] for check in COMMIT_CHECKS} | {check[0] for check in STORY_CHECKS})
