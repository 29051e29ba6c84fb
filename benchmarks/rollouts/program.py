"""The course of the rollout benchmark: one server, 64 streams without pause, one rollout after the other."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.harness import Candidate, Result
from benchmarks.rollouts.engine import Behaviour
from benchmarks.rollouts.stage import BAKE_S, ENDPOINT, MIN_READY_S, Stage, loaded, standing
from benchmarks.rollouts.watch import Life, Watch, ideal_s
from weighbridge.rollouts.model import RolloutLimits
from weighbridge.sdk import Client, ClientError, RolloutFailedError, wait_for_deployment

STREAMS = 64
REPLICAS = 3
ROLLOUT_LIMIT_S = 180.0
SETTLE_S = 3.0
LOOK_S = 0.05
BEHAVIOURS = [
    Behaviour("a"),
    Behaviour("b"),
    *(Behaviour(fault, fault=fault) for fault in ("exit", "sick", "stranger", "wedged")),
]
COURSE = (
    ("b", ""), ("a", ""), ("exit", ""), ("b", ""), ("a", "control"),
    ("b", ""), ("sick", ""), ("a", ""), ("b", "starting"), ("stranger", ""),
    ("a", ""), ("b", "control"), ("wedged", ""), ("a", ""), ("b", ""),
    ("exit", "control"), ("a", ""), ("b", "starting"), ("a", ""), ("b", ""),
)  # fmt: skip
"""Versions in the order of their rollouts, and what is killed with -9 in the middle: the control plane, or a
replica that has just been started."""


@dataclass(frozen=True, slots=True)
class Outcome:
    version: str
    killed: str
    state: str
    took_s: float
    ideal_s: float
    ready_min: int


def run() -> Result:
    """Also checks: every faulty version went back, and no stream but those of the last kill was touched."""
    with standing(BEHAVIOURS, REPLICAS) as stage, stage.client() as client:
        wait_for_deployment(client, ENDPOINT, stage.deploy(client, "a").id, timeout_s=60)
        with loaded(stage, STREAMS) as end:
            time.sleep(SETTLE_S)
            outcomes = [_roll(stage, client, version, kill) for version, kill in COURSE]
            time.sleep(SETTLE_S)
            seen = end()
        with loaded(stage, STREAMS) as end:
            time.sleep(SETTLE_S)
            running = _kill_a_server_of_many(stage, client)
            _wait(lambda: _ready(client) == REPLICAS, "a replacement")
            cut = end()
    return _result(outcomes, seen, cut, running)


def _roll(stage: Stage, client: Client, version: str, kill: str) -> Outcome:
    with stage.client() as onlooker, Watch(onlooker, ENDPOINT) as watch:
        began_s = time.monotonic()
        deployment = stage.deploy(client, version)
        if kill:
            _kill(stage, watch, deployment.id, kill)
        try:
            wait_for_deployment(
                client, ENDPOINT, deployment.id, timeout_s=ROLLOUT_LIMIT_S, sleep=_nap
            )
            state = "done"
        except RolloutFailedError:
            state = "rolled_back"
        took_s = time.monotonic() - began_s
        newcomers = watch.newcomers(deployment.id)
        _wait(lambda: _ready(client) == REPLICAS, "the end of the drains")
    leavers = {
        name: life
        for name, life in watch.lives.items()
        if name not in newcomers and "draining" in life.seen_s
    }
    if state == "done":
        served = {name: life for name, life in newcomers.items() if "ready" in life.seen_s}
        best_s = ideal_s(served, leavers, min_ready_s=MIN_READY_S, bake_s=BAKE_S)
    else:
        pauses_s = sum(RolloutLimits().backoff_s[: len(newcomers) - 1])
        best_s = pauses_s + sum(_failed_after_s(life) for life in newcomers.values())
    print(f"{version:9} {kill:9} {state:12} {took_s:6.1f} s, ideal {best_s:6.1f} s", flush=True)
    return Outcome(version, kill, state, took_s, best_s, watch.ready_min or 0)


def _nap(seconds: float) -> None:
    """The client's own pauses would be up to 2 s of each rollout's time."""
    time.sleep(min(seconds, LOOK_S))


def _kill(stage: Stage, watch: Watch, deployment_id: str, what: str) -> None:
    _wait(lambda: watch.newcomers(deployment_id), "the first new replica")
    if what == "control":
        stage.kill_service("control")
        return
    _wait(
        lambda: any(stage.kill_engine(name) for name in watch.newcomers(deployment_id)),
        "an engine to kill",
    )


def _kill_a_server_of_many(stage: Stage, client: Client) -> int:
    """Kill -9 a replica that serves; how many streams ran on it, as its gateway told a moment before."""
    found = [r for r in client.admin.replicas.list(ENDPOINT) if r.state == "ready"]
    busiest = max(found, key=lambda replica: replica.in_flight or 0)
    assert stage.kill_engine(busiest.id)
    return busiest.in_flight or 0


def _ready(client: Client) -> int:
    """How many replicas serve, or -1 while others come or go."""
    states = [replica.state for replica in client.admin.replicas.list(ENDPOINT)]
    moving = {"pending", "starting", "warming", "draining", "stopping"} & set(states)
    return -1 if moving else states.count("ready")


def _failed_after_s(life: Life) -> float:
    end_s = max(life.seen_s.values())
    return end_s - min(life.seen_s.values())


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + ROLLOUT_LIMIT_S
    while True:
        try:
            if condition():
                return
        except ClientError:
            pass
        assert time.monotonic() < deadline_s, f"not within {ROLLOUT_LIMIT_S:g} s: {what}"
        time.sleep(0.02)


def _result(outcomes: list[Outcome], seen: Mapping, cut: Mapping, running: int) -> Result:
    for outcome in outcomes:
        good = outcome.version in ("a", "b")
        assert outcome.state == ("done" if good else "rolled_back"), outcome
    groups = {
        "good version": [o for o in outcomes if o.state == "done" and not o.killed],
        "good version, control plane killed": [
            o for o in outcomes if o.state == "done" and o.killed == "control"
        ],
        "good version, a starting replica killed": [o for o in outcomes if o.killed == "starting"],
        "failing version": [o for o in outcomes if o.state == "rolled_back"],
    }
    kinds = [problem["outcome"] for problem in seen["problems"]]
    last = [problem["outcome"] for problem in cut["problems"]]
    return Result(
        name="rollouts",
        title=f"rollouts under {STREAMS} streams",
        command="python -m benchmarks rollouts",
        candidates=[
            Candidate(
                title,
                {
                    "rollouts": [float(len(group))],
                    "took_s": [o.took_s for o in group],
                    "ideal_s": [o.ideal_s for o in group],
                    "took_per_ideal": [o.took_s / o.ideal_s for o in group],
                    "ready_min": [float(o.ready_min) for o in group],
                },
            )
            for title, group in groups.items()
        ],
        notes=[
            _sentence(len(outcomes), seen["whole"], kinds),
            f"then kill -9 of a replica that served {running} streams: "
            + _counts(cut["whole"], last),
            *(str(problem) for problem in seen["problems"][:5]),
        ],
    )


def _sentence(rollouts: int, whole: Mapping[str, int], kinds: list[str]) -> str:
    shape = f"{REPLICAS} replicas, max_surge 1, max_unavailable 0"
    return f"{rollouts} rollouts of {shape}: " + _counts(whole, kinds)


def _counts(whole: Mapping[str, int], kinds: list[str]) -> str:
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("failed", "cut", "mixed"))
    return f"{sum(whole.values())} whole streams, {told}"
