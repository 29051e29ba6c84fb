"""Every crash point: in a few known stories, a control plane is killed before and after each durable step, once each.

Whatever the point, no invariant is broken, the world comes to rest, and each deployment ends as it would have
without the crash.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from simulation.engines.versions import Character
from simulation.play import run, silence
from simulation.steps import Moment, Point
from simulation.world.people import Wish
from simulation.world.plot import Plot
from simulation.world.world import World

SEED = 7
GOOD, BAD = Character.GOOD, Character.CRASHES_AT_START


@dataclass(frozen=True, slots=True)
class Scene:
    """`shape` is replicas, max_unavailable, max_surge; version 1 is deployed first of all. Deployments named in
    `open_ended` are raced by another wish, so that a delay may decide how they end.
    """

    name: str
    shape: tuple[int, int, int]
    versions: tuple[Character, ...]
    script: tuple[tuple[float, Wish], ...]
    open_ended: tuple[str, ...] = ()

    @property
    def plot(self) -> Plot:
        return Plot(
            shape=self.shape,
            nodes=(8,),
            workers=1,
            versions=self.versions,
            active_s=max(at_s for at_s, _ in self.script) + 10.0,
            wishes=(),
            faults=(),
            calls_per_s=0.5,
            script=self.script,
        )


SCENES = (
    Scene("a rollout", (2, 0, 1), (GOOD, GOOD), ((20.0, Wish("deploy", 2)),)),
    Scene("a version that fails", (2, 0, 1), (GOOD, BAD), ((20.0, Wish("deploy", 2)),)),
    Scene(
        "the only replica, without a spare slot",
        (1, 1, 0),
        (GOOD, GOOD),
        ((16.0, Wish("deploy", 2)),),
    ),
    Scene(
        "a rollout that is cancelled",
        (2, 1, 0),
        (GOOD, GOOD),
        ((18.0, Wish("deploy", 2)), (21.0, Wish("cancel"))),
        open_ended=("d1", "d2"),
    ),
    Scene(
        "two that wait, and the way back",
        (1, 0, 1),
        (GOOD, GOOD, GOOD),
        ((14.0, Wish("deploy", 2)), (14.5, Wish("deploy", 3)), (50.0, Wish("rollback"))),
        open_ended=("d4",),
    ),
    Scene(
        "a canary that is promoted",
        (2, 0, 1),
        (GOOD, GOOD),
        # Asked for again: a canary whose promotion was not heard stands until somebody decides.
        ((18.0, Wish("canary", (2, 50))), (40.0, Wish("promote")), (55.0, Wish("promote"))),
    ),
    Scene(
        "a canary that fails, and one that is given up",
        (2, 0, 1),
        (GOOD, BAD, GOOD),
        (
            (18.0, Wish("canary", (2, 50))),
            (60.0, Wish("canary", (3, 25))),
            (80.0, Wish("cancel canary")),
            (95.0, Wish("cancel canary")),
        ),
    ),
    Scene(
        "another size, and an upload",
        (2, 0, 1),
        (GOOD,),
        (
            (18.0, Wish("resize", (3, 0, 1))),
            (24.0, Wish("resize", (1, 0, 1))),
            (25.0, Wish("upload")),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a scene ended. `wrong` is what must not be, in words; `names` are the steps that were made."""

    point: Point | None
    names: Sequence[str]
    statuses: Mapping[str, str]
    wrong: tuple[str, ...]


def play_scene(scene: Scene, point: Point | None) -> Ended:
    world = World(SEED, plot=scene.plot, point=point)
    breaches, _ = run(world)
    steps = world.site.steps
    wrong = [f"{breach.invariant}: {breach.words}" for breach in breaches]
    if steps.point is not None:
        wrong.append(f"nobody came to {point}")
    statuses = {
        str(row["id"]): str(row["status"]) for row in world.memory.tables["deployments"].values()
    }
    return Ended(point, tuple(steps.names), statuses, tuple(wrong))


def points(names: Sequence[str]) -> Iterator[Point]:
    for step in range(len(names)):
        yield from (Point(step, moment) for moment in Moment)


def judged(scene: Scene, whole: Ended, ended: Ended) -> list[str]:
    """What is wrong with an end, compared with the one without a crash."""
    wrong = list(ended.wrong)
    if ended.statuses.keys() != whole.statuses.keys():
        # A request was not answered, and nobody asked again; what came after it met another world.
        return wrong
    for name, status in ended.statuses.items():
        if name not in scene.open_ended and status != whole.statuses.get(name):
            wrong.append(f"deployment {name} ended {status}, not {whole.statuses.get(name)}")
    return wrong


def main(words: list[str]) -> int:
    """`python -m simulation.crashes [SCENE…]`: what every point of the scenes came to; exit code 1 if one is wrong."""
    parser = argparse.ArgumentParser(prog="simulation.crashes", description=__doc__)
    parser.add_argument("scenes", nargs="*", type=int, default=range(len(SCENES)))
    parser.add_argument("--count", action="store_true", help="only say how many points there are")
    asked = parser.parse_args(words)
    silence()
    scenes = [SCENES[number] for number in asked.scenes]
    wholes = [play_scene(scene, None) for scene in scenes]
    if asked.count:
        print(sum(2 * len(whole.names) for whole in wholes))
        return 0
    failed = 0
    for scene, whole in zip(scenes, wholes, strict=True):
        failed += _play_points(scene, whole)
    return 1 if failed else 0


def _play_points(scene: Scene, whole: Ended) -> int:
    failed = len(whole.wrong)
    print(
        f"{scene.name}: {len(whole.names)} steps, ends {dict(whole.statuses)} {whole.wrong or ''}"
    )
    for point in points(whole.names):
        if wrong := judged(scene, whole, play_scene(scene, point)):
            failed += 1
            name = whole.names[point.step]
            print(f"  killed {point.moment} step {point.step}, {name}: {'; '.join(wrong)}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
