"""What soaks have played is summed up leg by leg, and the next goes on where the last one ended."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from simulation import evidence
from simulation.history.story import Breach
from simulation.play import play, silence
from simulation.soak import Summary


def played(first: int, seeds: int) -> Summary:
    silence()
    summary = Summary(first=first, cpu_s=1.5, workers=2)
    for seed in range(first, first + seeds):
        summary.add(play(seed, lines=True))
    return summary


def test_legs_add_up_to_what_one_run_would_have_counted(tmp_path: Path) -> None:
    for first, seeds, commit in ((0, 2, "aaa"), (2, 1, "aaa"), (3, 2, "bbb")):
        so_far = evidence.read(tmp_path)
        assert so_far.next_seed == first
        so_far.add(played(first, seeds), commit, "3.11.7")
        so_far.write(tmp_path)
    found, whole = evidence.read(tmp_path), played(0, 5)
    assert [(leg.commit, leg.first, leg.seeds) for leg in found.legs] == [
        ("aaa", 0, 3),
        ("bbb", 3, 2),
    ]
    assert found.summary.cpu_s == 4.5
    for name in ("seeds", "events", "virtual_s", "rollouts", "faults", "requests", "checks"):
        assert getattr(found.summary, name) == getattr(whole, name), name
    page = (tmp_path / "simulation.md").read_text()
    assert page.count("**0 violations**") == 1
    assert "| 3 to 4 | bbb | 3.11.7 | 0 |" in page


def test_a_seed_that_failed_stays_in_the_evidence(tmp_path: Path) -> None:
    so_far = evidence.Evidence()
    leg = Summary(first=0, seeds=10, failing=[7])
    leg.breaches["R2"] += 1
    so_far.add(leg, "aaa", "3.11.7")
    so_far.add(Summary(first=10, seeds=5), "bbb", "3.11.7")
    so_far.write(tmp_path)
    assert evidence.read(tmp_path).summary.failing == [7]
    assert "**1 violations**" in (tmp_path / "simulation.md").read_text()


def test_a_seed_that_passes_once_its_cause_is_mended_counts_no_more_and_is_told_of(
    tmp_path: Path,
) -> None:
    so_far = evidence.Evidence()
    leg = Summary(first=0, seeds=10, failing=[3, 7])
    leg.breaches["R2"] += 4
    so_far.add(leg, "aaa", "3.11.7")
    passes, fails = play(3), replace(play(7), breaches=[Breach("R3", 1, "too many")])
    so_far.judge_again([passes, fails], "bbb")
    so_far.write(tmp_path)
    found = evidence.read(tmp_path)
    assert (found.summary.failing, found.summary.breaches, found.mended) == (
        [7],
        {"R3": 1},
        {3: "bbb"},
    )
    page = (tmp_path / "simulation.md").read_text()
    assert "**1 violations**" in page
    assert "| 0 to 9 | aaa | 3.11.7 | 2 |" in page
    assert "* 3 passes on bbb" in page


@pytest.mark.parametrize("part", ["src", "simulation", "tests"])
def test_a_commit_is_marked_where_its_files_have_changed(tmp_path: Path, part: str) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    docs, file = tmp_path / "docs", tmp_path / part / "file.py"
    for directory in (docs, file.parent):
        directory.mkdir()
    file.write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = evidence.commit(docs)
    file.write_text("changed")
    assert evidence.commit(docs) == clean + "+"
