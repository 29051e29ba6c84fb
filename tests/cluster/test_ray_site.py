"""A whole installation on a Ray cluster, with the embedded engine: rollouts and the loss of nodes, under streams.

Its nodes share no directory with the server or with each other.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from installation import ANSWERS, BUCKET, ENDPOINT, MODELS, ORG, Installation, until
from ray_machines import Machines
from ray_replicas import spec, until_true
from ray_site import (
    DEPLOYED_S,
    LIMIT_S,
    PAUSE_S,
    STREAMS_ENDED,
    ask_for_other,
    cached,
    cut_requests,
    deploy_other,
    forget_unused,
    marked_names,
    ready_nodes,
    routed_urls,
    serving,
    streams,
    total,
)

from weighbridge.errors import UnavailableError
from weighbridge.replicas.launch import OWNER
from weighbridge.replicas.weights.prefetch import ON_THEIR_WAY
from weighbridge.runtimes.base import ReplicaSpec, RuntimeState
from weighbridge.runtimes.processes import find_marked, lock_holder
from weighbridge.runtimes.ray.runtime import RayRuntime
from weighbridge.sdk import ClientError, wait_for_deployment, wait_for_sync
from weighbridge.weights.node.pull import PULLING

REPLACED_S = 15.0
HELD_S = 3.0
"""How long nobody may be drained while the weights do not come."""


@pytest.fixture(scope="module")
def site(cluster: Machines, make_public_directory: Callable[[], Path]) -> Iterator[Installation]:
    with serving(cluster, make_public_directory(), "site") as found:
        yield found


async def launched(runtime: RayRuntime, wish: ReplicaSpec) -> None:
    """By a driver of its own, as of a controller that leads nobody any more."""
    try:
        await until_true(lambda: accepted(runtime, wish), True)
    finally:
        await runtime.close()


async def accepted(runtime: RayRuntime, wish: ReplicaSpec) -> bool:
    try:
        await runtime.launch(wish)
    except UnavailableError:
        return False  # its driver starts
    found = [one for one in await runtime.list(OWNER) if one.name == wish.name]
    return any(one.url or one.state is RuntimeState.EXITED for one in found)


def test_each_node_has_brought_the_version_itself_and_a_token_is_in_no_log(site, cluster):
    with site.client() as client:
        assert site.say(client) == ANSWERS[1]
    store = {path.name for path in (site.root / "data/store/versions").iterdir()}
    assert cached(cluster, "n1") & store == cached(cluster, "n2") & store != set()
    for text in site.logs().values():
        assert "wbw_" not in text


def test_a_rollout_replaces_the_replicas_on_every_node_without_a_failed_stream(site, cluster):
    assert sorted(ready_nodes(site).values()) == ["n1", "n2"]
    with streams(site) as groups:
        deploy_other(site)
        for group in groups:
            group.wait_for_answers(2, timeout_s=LIMIT_S)
    tally = total(groups)
    assert tally.clean, tally
    assert tally.answered.keys() == {"1", "2"}, tally
    assert sorted(ready_nodes(site).values()) == ["n1", "n2"]


def test_nobody_is_drained_while_the_weights_of_the_target_do_not_come(site, cluster):
    server = lock_holder(site.run_dir / "weights.lock")
    forget_unused(cluster, left=1)
    before = ready_nodes(site)
    with streams(site, count=1, pause_s=PAUSE_S) as groups, site.client() as client:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            asked = ask_for_other(site, client)
            until(
                lambda: PULLING in client.deployments.get(asked.id).reason,
                LIMIT_S,
                "a replica that pulls",
            )
            held_s = time.monotonic() + HELD_S
            while time.monotonic() < held_s:
                assert ready_nodes(site) == before
        finally:
            os.kill(server.pid, signal.SIGCONT)
        wait_for_deployment(client, ENDPOINT, asked.id, timeout_s=DEPLOYED_S)
        groups[0].wait_for_answers(2, timeout_s=LIMIT_S)
    assert total(groups).clean, total(groups)
    assert sorted(ready_nodes(site).values()) == ["n1", "n2"]


def test_without_a_surge_the_weights_are_on_the_nodes_before_anybody_is_drained(site, cluster):
    server = lock_holder(site.run_dir / "weights.lock")
    forget_unused(cluster, left=1)
    before = ready_nodes(site)
    assert sorted(before.values()) == ["n1", "n2"]
    with streams(site, count=1, pause_s=PAUSE_S) as groups, site.client() as client:
        client.admin.endpoints.update(ENDPOINT, max_surge=0, max_unavailable=1)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            asked = ask_for_other(site, client)
            until(
                lambda: ON_THEIR_WAY in client.deployments.get(asked.id).reason,
                LIMIT_S,
                "weights on their way",
            )
            held_s = time.monotonic() + HELD_S
            while time.monotonic() < held_s:
                assert ready_nodes(site) == before
            assert [len(cached(cluster, name)) for name in ("n1", "n2")] == [1, 1]
        finally:
            os.kill(server.pid, signal.SIGCONT)
        until(lambda: ready_nodes(site) != before, LIMIT_S, "the first drain")
        assert [len(cached(cluster, name)) for name in ("n1", "n2")] == [2, 2]
        wait_for_deployment(client, ENDPOINT, asked.id, timeout_s=DEPLOYED_S)
        groups[0].wait_for_answers(2, timeout_s=LIMIT_S)
        client.admin.endpoints.update(ENDPOINT, max_surge=1, max_unavailable=0)
    assert total(groups).clean, total(groups)


def test_a_control_process_that_is_killed_in_a_rollout_goes_on_with_it_and_stops_what_it_does_not_know(
    site, cluster
):
    """Its driver ends with it. Nobody asked for the stranger: an actor that outlived its row, say (D4)."""
    stranger = RayRuntime(cluster.options(ray_namespace="site"), time.monotonic)
    with streams(site, count=1, pause_s=PAUSE_S) as groups:
        with site.client() as client:
            asked = ask_for_other(site, client)
            until(lambda: len(client.admin.replicas.list(ENDPOINT)) > 2, what="a new replica")
            before = ready_nodes(site).keys()
            site.kill(site.process("control"))
            asyncio.run(launched(stranger, spec("stranger", labels=OWNER)))
            wait_for_deployment(client, ENDPOINT, asked.id, timeout_s=DEPLOYED_S)
        for group in groups:
            group.wait_for_answers(2, timeout_s=LIMIT_S)
        until(lambda: "stranger" not in marked_names(cluster), LIMIT_S, "the end of the stranger")
    assert total(groups).clean, total(groups)
    after = ready_nodes(site)
    assert sorted(after.values()) == ["n1", "n2"]
    assert not before & after.keys()


def test_a_deployment_that_no_node_could_hold_is_refused_with_what_there_is(site):
    with site.client() as client:
        engine = {"slots": 4, "gpus": 64}
        client.admin.architectures.register("huge", str(MODELS / "llama-v1"), engine=engine)
        client.admin.endpoints.create("huge", org_name=ORG, model_arch_id="huge")
        source = f"s3://{BUCKET}/llama-v1"
        version = client.models.upload(ORG, "huge", source, version_aliases=["production"])
        wait_for_sync(client, version.name, timeout_s=LIMIT_S)
        with pytest.raises(ClientError, match="64 GPU; no node offers that") as refused:
            client.endpoints.deploy("huge", version.name)
        assert refused.value.code == "does_not_fit"
        client.admin.endpoints.delete("huge")


def test_a_node_that_is_lost_takes_only_its_own_streams_and_is_replaced_within_15_s(site, cluster):
    before = ready_nodes(site)
    (doomed,) = [replica for replica, node in before.items() if node == "n2"]
    with streams(site, pause_s=PAUSE_S) as groups:
        cluster.nodes["n2"].kill()
        killed_s = time.monotonic()
        until(lambda: len(ready_nodes(site).keys() - {doomed}) == 2, LIMIT_S, "its replacement")
        replaced_s = time.monotonic() - killed_s
        for group in groups:
            group.wait_for_answers(2, timeout_s=LIMIT_S)
    tally = total(groups)
    assert tally.failed == 0, tally
    assert [request["replica_id"] for request in cut_requests(site)] == [doomed] * tally.cut
    after = ready_nodes(site)
    assert set(after.values()) == {"n1"}
    assert before.keys() - {doomed} < after.keys()  # the one that was left is not touched
    cluster.start_node("n2", "--labels", "rack=r2", "--num-gpus", "2")
    assert replaced_s <= REPLACED_S


def test_a_frozen_node_is_given_up_and_its_old_engine_gets_no_request_again(site, cluster):
    deploy_other(site)
    before = ready_nodes(site)
    assert sorted(before.values()) == ["n1", "n2"]
    (frozen,) = [replica for replica, node in before.items() if node == "n2"]
    ip = cluster.nodes["n2"].ip
    with streams(site, count=1, pause_s=PAUSE_S) as groups:
        cluster.nodes["n2"].raylet_signal(signal.SIGSTOP)
        until(lambda: len(ready_nodes(site).keys() - {frozen}) == 2, LIMIT_S, "its replacement")
        assert find_marked(cluster.nodes["n2"].directory / "run")  # its engine runs on
        until(lambda: ip not in routed_urls(site), what="a table without the frozen node")
        for group in groups:
            group.wait_for_answers(STREAMS_ENDED, timeout_s=LIMIT_S)
        cluster.nodes["n2"].raylet_signal(signal.SIGCONT)
        until(
            lambda: not find_marked(cluster.nodes["n2"].directory / "run"),
            what="the end of what the node ran",
        )
        for group in groups:
            group.wait_for_answers(2, timeout_s=LIMIT_S)
    assert total(groups).clean, total(groups)
    # Its cluster has given it up for good: it comes back as a new one.
    cluster.nodes["n2"].kill()
    cluster.start_node("n2", "--labels", "rack=r2", "--num-gpus", "2")
