"""What a receipt is told of a deployment."""

from dataclasses import replace
from datetime import timedelta

from toys.world import START, deployment
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.rollouts.telling import deployment_events, gate_event, submitted
from weighbridge.usage.model import VersionFigures

NOW = START + timedelta(hours=1)


def names(before, after, base=None):
    return [one["event"] for one in deployment_events(before, after, base, NOW)]


def test_nothing_is_told_where_only_words_changed():
    one = deployment(2, 2, status=RolloutStatus.IN_PROGRESS)
    assert names(one, replace(one, reason="other words")) == []


def test_who_asked_and_for_which_share_is_told():
    told = submitted(deployment(2, 2, traffic_percent=10), asked_by="k1")
    assert (told["asked_by"], told["traffic_percent"], told["version"]) == ("k1", 10, 2)
    assert "traffic_percent" not in submitted(deployment(2, 2), asked_by=None)


def test_a_canary_that_is_promoted_is_told():
    one = deployment(2, 2, status=RolloutStatus.IN_PROGRESS, traffic_percent=10)
    assert names(one, replace(one, promoted_at=NOW)) == ["promoted"]


def test_progress_and_the_end_stand_in_their_order():
    one = deployment(2, 2, status=RolloutStatus.IN_PROGRESS)
    done = replace(one, status=RolloutStatus.DONE, updated_max=one.updated_max + 1)
    assert names(one, done) == ["progress", "ended"]


def test_the_gates_figures_stand_by_version_without_fractions():
    figures = {3: VersionFigures(60, 58, 2, 1, 58, 0.4321), 2: VersionFigures(9, 9, 0, 0, 0, 0.0)}
    after = deployment(2, 3, status=RolloutStatus.ROLLING_BACK)
    told = gate_event(figures, after, NOW)
    assert told["outcome"] == "rolling_back"
    assert told["figures"] == [
        {"version": 2, "requests": 9, "errors": 0, "empty": 0, "ttft_p95_ms": None},
        {"version": 3, "requests": 60, "errors": 2, "empty": 1, "ttft_p95_ms": 432},
    ]
