"""A forecast's steps are those that the real planner takes in a world where every replica does as its pace says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from toys.world import LIMITS, START, Luck, World, deployment, endpoint
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts.forecast.ideal import course
from weighbridge.rollouts.forecast.model import Course, Outlook, Pace, Share, StepKind
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.rollouts.moves import Action, AdoptReplica, DrainReplica, StartReplica

S = ReplicaState
STEPS_MAX = 8
TOY_PACE = Pace(start_s=3, route_s=1, drain_s=2, stop_s=1)
"""What a replica of the toy world takes when each second brings it one state further."""

Told = tuple[float, str, int, int]


class Always(Random):
    """Chance with which every replica moves on in every second."""

    def random(self) -> float:
        return 0.0


@dataclass
class IdealToy(World):
    """The toy world without chance, controlled until nothing moves; it writes down the steps of one deployment."""

    told: list[Told] = field(default_factory=list)
    watched: str = ""
    began: float | None = None
    routed_before: int = 0
    routed_min: int = 0
    slots_max: int = 0
    ended: float = 0.0

    def control(self) -> None:
        for _ in range(STEPS_MAX):
            active = self.active()
            if active is None:
                return
            if active.id == self.watched and self.began is None:
                self.began = self.now.timestamp()
                self.routed_before = self.routed_min = self.routed()
                self.slots_max = self.slots()
            before = (active.status, dict(self.replicas))
            super().control()
            after = self.deployments[active.id]
            if after.status.final and after.id == self.watched:
                self.ended = self.now.timestamp()
            if (after.status, self.replicas) == before:
                return

    def slots(self) -> int:
        return sum(not r.state.final for r in self.replicas.values())

    def tell(self, moves: Sequence[tuple[StepKind, int]]) -> None:
        if self.began is None or not moves:
            return
        self.routed_min = min(self.routed_min, self.routed())
        self.slots_max = max(self.slots_max, sum(not r.state.final for r in self.replicas.values()))
        at = self.now.timestamp() - self.began
        for kind, number in dict.fromkeys(moves):
            self.told.append((at, kind, number, list(moves).count((kind, number))))

    def _apply(self, actions: Sequence[Action]) -> None:
        moves = []
        for action in actions:
            match action:
                case StartReplica(deployment_id):
                    moves.append((StepKind.START, self.deployments[deployment_id].version_number))
                case AdoptReplica(replica_id, _):
                    moves.append((StepKind.ADOPT, self.replicas[replica_id].version_number))
                case DrainReplica(replica_id):
                    moves.append((StepKind.DRAIN, self.replicas[replica_id].version_number))
                case _:
                    number = self.replicas[action.replica_id].version_number
                    moves.append((StepKind.STOP, number))
        super()._apply(actions)
        self.tell(moves)

    def tick(self, seconds: float = 1.0) -> None:
        """As the toy's, but what replicas do in one second is told together."""
        self.now += timedelta(seconds=seconds)
        was = dict(self.replicas)
        for one in list(self.replicas.values()):
            if not one.state.final:
                self._live(one, Luck())
        moves = []
        for one in was.values():
            after = self.replicas[one.id]
            if one.state is S.READY and one.routed_at is None and after.routed_at is not None:
                moves.append((StepKind.ROUTE, one.version_number))
            if one.state is S.STOPPING and after.state is S.STOPPED and one.ready_at is not None:
                moves.append((StepKind.STOP, one.version_number))
        self.tell(moves)
        self.control()


def foreseen(toy: IdealToy) -> Course:
    outlook = Outlook(
        endpoint=toy.endpoint,
        queue=tuple(d for d in toy.deployments.values() if not d.status.final),
        base=toy.deployments.get(toy.base_id or ""),
        active_base=None,
        replicas=tuple(toy.replicas.values()),
    )
    return course(outlook, TOY_PACE, toy.now, LIMITS)


def play(toy: IdealToy) -> Course:
    """Foresee, then let it happen."""
    waiting = [d for d in toy.deployments.values() if not d.status.final]
    toy.watched = waiting[-1].id
    said = foreseen(toy)
    toy.control()
    for _ in range(5_000):
        if toy.active() is None:
            break
        toy.tick()
    assert toy.deployments[toy.watched].status is said.status
    assert [(s.at_s, s.kind, s.version_number, s.count) for s in said.steps] == toy.told
    assert toy.began is not None
    assert said.takes_s == toy.ended - toy.began
    assert said.waits_s == toy.began - START.timestamp()
    assert said.routed_before == toy.routed_before
    assert said.routed_min == toy.routed_min
    assert said.slots_max == toy.slots_max
    assert said.complete
    return said


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    replicas = draw(st.integers(1, 7))
    unavailable = draw(st.integers(0, replicas))
    return replicas, unavailable, draw(st.integers(0 if unavailable else 1, 4))


@settings(max_examples=300, deadline=None)
@given(shapes(), st.integers(0, 9), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_the_steps_foreseen_are_the_steps_taken(
    shape: tuple[int, int, int], serving: int, versions: list[int]
) -> None:
    """Also behind other deployments, for the version that serves, and on an endpoint of another size than it runs."""
    toy = IdealToy(Always(), endpoint(*shape), {f"v{n}": Luck() for n in (1, 2, 3)})
    if serving:
        toy.serve(deployment(1), serving)
    for number, version in enumerate(versions, 2):
        toy.submit(deployment(number, version=version))
    assert play(toy).status is RolloutStatus.DONE


@settings(max_examples=100, deadline=None)
@given(shapes().filter(lambda s: s[0] + s[2] > 1), st.integers(1, 99))
def test_a_canary_is_foreseen_to_where_it_stands(shape: tuple[int, int, int], percent: int) -> None:
    toy = IdealToy(Always(), endpoint(*shape), {"v1": Luck(), "v2": Luck()})
    toy.serve(deployment(1), shape[0])
    toy.submit(deployment(2, traffic_percent=percent))
    toy.watched = "d2"
    said = foreseen(toy)
    toy.control()
    for _ in range(300):
        toy.tick()
    standing = toy.deployments["d2"]
    assert said.complete
    assert (standing.status, standing.reason) == (said.status, said.reason)
    assert [(s.at_s, s.kind, s.version_number, s.count) for s in said.steps] == toy.told
    assert (said.routed_min, said.slots_max) == (toy.routed_min, toy.slots_max)
    assert said.share == Share(percent, toy.on("v2"), toy.on("v1"))


@settings(max_examples=50, deadline=None)
@given(shapes())
def test_a_rollout_that_keeps_its_floor_needs_no_hold(shape: tuple[int, int, int]) -> None:
    replicas, unavailable, _ = shape
    toy = IdealToy(Always(), endpoint(*shape), {f"v{n}": Luck() for n in (1, 2)})
    toy.serve(deployment(1), replicas)
    toy.submit(deployment(2))
    said = play(toy)
    assert said.routed_min >= replicas - unavailable
    assert said.hold_needed is (said.routed_min == 0)
    assert (said.gap_s > 0) is said.hold_needed


def test_a_single_replica_without_a_spare_place_leaves_a_gap_of_start_and_drain() -> None:
    toy = IdealToy(Always(), endpoint(1, 1, 0), {"v1": Luck(), "v2": Luck()})
    toy.serve(deployment(1), 1)
    toy.submit(deployment(2))
    said = play(toy)
    assert [(s.kind, s.version_number) for s in said.steps] == [
        (StepKind.DRAIN, 1),
        (StepKind.STOP, 1),
        (StepKind.START, 2),
        (StepKind.ROUTE, 2),
    ]
    assert said.hold_needed
    assert said.gap_s == TOY_PACE.drain_s + TOY_PACE.start_s + TOY_PACE.route_s


def test_the_worked_example_of_three_replicas_with_one_spare_place() -> None:
    toy = IdealToy(Always(), endpoint(3, 0, 1), {"v1": Luck(), "v2": Luck()})
    toy.serve(deployment(1), 3)
    toy.submit(deployment(2))
    said = play(toy)
    one = [(StepKind.START, 2), (StepKind.ROUTE, 2), (StepKind.DRAIN, 1), (StepKind.STOP, 1)]
    assert [(s.kind, s.version_number) for s in said.steps] == one * 3
    assert (said.routed_min, said.slots_max) == (3, 4)


def test_work_without_end_is_left_incomplete() -> None:
    """A thousand replicas one by one are foreseen as far as the limit of work allows, and it says so."""
    toy = IdealToy(Always(), endpoint(1_000, 0, 1), {"v1": Luck(), "v2": Luck()})
    toy.serve(deployment(1), 1_000)
    toy.submit(deployment(2))
    said = foreseen(toy)
    assert not said.complete
    assert said.steps


def test_behind_a_canary_nobody_promotes_no_start_is_foreseen() -> None:
    toy = IdealToy(Always(), endpoint(4, 0, 1), {f"v{n}": Luck() for n in (1, 2, 3)})
    toy.serve(deployment(1), 4)
    toy.submit(deployment(2, traffic_percent=25))
    toy.submit(deployment(3))
    said = foreseen(toy)
    assert (said.status, said.complete, said.steps) == (RolloutStatus.NOT_STARTED, False, ())
    assert "waits behind d2" in said.reason
    assert "until it is promoted" in said.reason
    assert (said.routed_before, said.routed_min, said.slots_max) == (4, 4, 4)
