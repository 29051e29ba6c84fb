"""The catalogue of planted bugs follows the planners: each bug still has its one place."""

from simulation.planting import bugs, misplaced

BUGS_MIN = 40


def test_every_planted_bug_has_exactly_one_place() -> None:
    assert list(misplaced()) == []


def test_there_are_enough_bugs_and_none_is_there_twice() -> None:
    names = [bug.name for bug in bugs()]
    assert len(names) == len(set(names))
    assert len(names) >= BUGS_MIN
