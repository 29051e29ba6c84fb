"""Replicas on a real Ray cluster: how one is asked for, and the waits until it is what a test wants."""

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

from ray_machines import Machines

from weighbridge.errors import UnavailableError
from weighbridge.runtimes.base import ReplicaSpec, Resources, RuntimeState, Weights
from weighbridge.runtimes.ray.runtime import RayRuntime

ENGINE = str(Path(__file__).parents[1] / "system" / "programs" / "engine.py")
SECRET = "s3cret-of-the-replica"
LIMIT_S = 60.0


@contextlib.asynccontextmanager
async def leading(cluster: Machines) -> AsyncIterator[RayRuntime]:
    """The runtime of a control process that leads; in the end nothing that it has started is left."""
    found = RayRuntime(cluster.options(), time.monotonic, lambda: 1)
    try:
        await until(found, lambda _: True)
        yield found
        for status in await found.list({}):
            await found.stop(status.name, 0)
        await until(found, lambda all_: all(one.state in ENDED for one in all_))
        for status in await found.list({}):
            await found.forget(status.name)
    finally:
        await found.close()


ENDED = (RuntimeState.EXITED, RuntimeState.LOST)


def spec(name: str, *arguments: str, **changes) -> ReplicaSpec:
    argv = changes.pop("argv", None) or [
        "{python}",
        "-S",
        ENGINE,
        "--host",
        "{host}",
        "--port",
        "{port}",
        "--model",
        "{model}",
    ]
    values = {
        "secrets": {"ENGINE_TOKEN": SECRET},
        "labels": {"endpoint": "e1"},
        "grace_s": 2.0,
        "resources": Resources(cpus=1.0),
    }
    weights = Weights("digest", "/models/x", 1)
    return ReplicaSpec(name, [*argv, *arguments], weights, **(values | changes))


async def until(runtime: RayRuntime, condition, limit_s: float = LIMIT_S):
    """The statuses that fulfil it; the runtime may be away meanwhile."""
    deadline_s = time.monotonic() + limit_s
    while True:
        try:
            found = await runtime.list({})
            if condition(found):
                return found
        except UnavailableError as error:
            found = error
        assert time.monotonic() < deadline_s, found
        await asyncio.sleep(0.1)


async def state(runtime: RayRuntime, name: str, wanted: RuntimeState, limit_s: float = LIMIT_S):
    def reached(all_):
        return any(one.name == name and one.state is wanted and _told(one) for one in all_)

    found = await until(runtime, reached, limit_s)
    return next(one for one in found if one.name == name)


def _told(status) -> bool:
    return status.url is not None or status.state is not RuntimeState.RUNNING


@contextlib.asynccontextmanager
async def follower(cluster: Machines) -> AsyncIterator[RayRuntime]:
    """Of a control process that leads nobody: connected, and it has not listed anything."""
    found = RayRuntime(cluster.options(), time.monotonic)

    async def connected() -> bool:
        try:
            return bool(await found.capacity())
        except UnavailableError:
            return False

    try:
        await until_true(connected, True)
        yield found
    finally:
        await found.close()


async def until_true(ask, wanted, limit_s: float = LIMIT_S) -> None:
    deadline_s = time.monotonic() + limit_s
    while True:
        answer = ask()
        if (await answer if asyncio.iscoroutine(answer) else answer) == wanted:
            return
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.1)


def answers(url: str) -> dict:
    """What the engine says, once it listens."""
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
