"""Play one seed and judge it: what the command line, the soak run and the tests all do."""

import gc
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from simulation.history.checker import check
from simulation.history.story import Breach, Limits
from simulation.installation.control import SETTINGS
from simulation.memory.database import Executor
from simulation.memory.shape import UnknownStatementError
from simulation.world.world import World
from weighbridge.replicas.reconciler import replica_limits

_current: list[World] = []
_EXPECTED = ("replica.stop_overdue",)
"""Errors that the product reports of the world, not of itself."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed. `digest` is of the whole log; `lines` is the log where it was asked for."""

    seed: int
    digest: str
    breaches: Sequence[Breach]
    checks: Mapping[str, int]
    rollouts: Mapping[str, int]
    """By final status."""
    faults: Mapping[str, int]
    events: int
    requests: Mapping[str, int]
    virtual_s: float
    lines: Sequence[str] = ()


def _note(
    logger: object,
    method: str,
    event: MutableMapping[str, Any],  # structlog's own type
) -> MutableMapping[str, Any]:
    """An error of the product is an event of the world that runs; a statement nobody knows ends it."""
    error = sys.exception() if event.get("exc_info") else None
    if isinstance(error, UnknownStatementError):
        _current[-1].loop.broken.append(error)
    elif _current and event["event"] not in _EXPECTED:
        words = {name: value for name, value in event.items() if name != "exc_info"}
        told = "" if error is None else "".join(traceback.format_exception(error)[-2:])
        _current[-1].log.add("broken", words=f"{words} {told}")
    raise structlog.DropEvent


def silence() -> None:
    """Let the product log nothing but errors, and those into the world's log; once per process."""
    structlog.configure(
        processors=[_note],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=True,
    )


def run(world: World) -> tuple[Sequence[Breach], Mapping[str, int]]:
    """Play a world to its end and judge it: what is broken, and how often each invariant was looked at."""
    _current.append(world)
    collecting = gc.isenabled()
    gc.disable()
    try:
        world.run()
    finally:
        _current.pop()
        if collecting:
            gc.enable()
    for error in world.loop.broken:
        if isinstance(error, UnknownStatementError):
            raise error
    return check(world.log, Limits(world.site.limits, replica_limits(SETTINGS)))


def play(seed: int, *, lines: bool = False, executor: Executor | None = None) -> Outcome:
    """The same seed gives the same outcome, in any process."""
    world = World(seed, executor)
    breaches, checks = run(world)
    if executor is not None:
        executor.finished(world.memory)
    rows = world.memory.tables["deployments"].values()
    return Outcome(
        seed=seed,
        digest=world.log.digest() if lines else "",
        breaches=breaches,
        checks=checks,
        rollouts=Counter(str(row["status"]) for row in rows),
        faults=Counter(str(event.facts["name"]) for event in world.log.of("fault")),
        events=len(world.log.events),
        requests=Counter(str(event.facts["outcome"]) for event in world.log.of("request")),
        virtual_s=world.loop.time(),
        lines=tuple(world.log.lines()) if lines or breaches else (),
    )
