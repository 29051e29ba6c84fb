"""A cluster whose head is lost and comes back with its records."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from installation import ENDPOINT, until
from ray_machines import Machines, running_cluster
from ray_replicas import LIMIT_S, answers, leading, spec, state
from ray_site import DEPLOYED_S, PAUSE_S, STREAMS_ENDED, serving, streams, total

from weighbridge.errors import UnavailableError
from weighbridge.runtimes.base import RuntimeState
from weighbridge.runtimes.ray.runtime import RayRuntime
from weighbridge.sdk import Client, ClientError, wait_for_deployment


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


def is_away(client: Client) -> bool:
    try:
        client.admin.nodes()
    except ClientError as error:
        return error.status == 503
    return False


async def test_while_the_head_is_away_replicas_serve_and_then_all_is_found_again(lasting):
    async with leading(lasting) as runtime:
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


def test_while_the_head_is_away_no_stream_ends_and_a_rollout_waits_for_it(
    lasting: Machines, make_public_directory: Callable[[], Path]
) -> None:
    with (
        serving(lasting, make_public_directory(), "lasting", keeps_head=False) as site,
        site.client() as client,
        streams(site, count=2, pause_s=PAUSE_S) as groups,
    ):
        asked = site.ask_for(client, 2)
        until(lambda: len(client.admin.replicas.list(ENDPOINT)) > 2, what="a new replica")
        lasting.head.kill()
        until(lambda: is_away(client), LIMIT_S, "a server that misses the head")
        for group in groups:
            group.wait_for_answers(STREAMS_ENDED, timeout_s=LIMIT_S)
        assert not client.deployments.get(asked.id).final
        lasting.start_head()
        wait_for_deployment(client, ENDPOINT, asked.id, timeout_s=DEPLOYED_S)
        for group in groups:
            group.wait_for_answers(2, timeout_s=LIMIT_S)
        assert total(groups).answered.keys() == {"1", "2"}
    assert total(groups).clean, total(groups)
