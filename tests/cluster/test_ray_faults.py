"""A cluster whose head is lost and comes back with its records."""

import time

import pytest
from ray_machines import Machines, running_cluster
from test_ray_runtime import LIMIT_S, answers, spec, state, until

from weighbridge.errors import UnavailableError
from weighbridge.runtimes.base import RuntimeState
from weighbridge.runtimes.ray.runtime import RayRuntime


@pytest.fixture(scope="module")
def lasting() -> Machines:
    """A head whose records outlive it, and one node."""
    with running_cluster(nodes=1, base=40, lasting=True) as machines:
        yield machines


async def until_away(runtime: RayRuntime) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s:
        try:
            await runtime.list({})
        except UnavailableError:
            return
    raise AssertionError("the runtime answers without a head")


async def test_while_the_head_is_away_replicas_serve_and_then_all_is_found_again(lasting):
    runtime = RayRuntime(lasting.options(), time.monotonic)
    try:
        await until(runtime, lambda _: True)
        await runtime.launch(spec("r1"))
        before = await state(runtime, "r1", RuntimeState.RUNNING)
        who = answers(before.url)["pid"]
        lasting.head.kill()
        await until_away(runtime)
        assert answers(before.url)["pid"] == who
        lasting.start_head()
        assert await state(runtime, "r1", RuntimeState.RUNNING) == before
        assert answers(before.url)["pid"] == who
        await runtime.launch(spec("r2"))
        await state(runtime, "r2", RuntimeState.RUNNING)
    finally:
        await runtime.close()
