"""A whole installation on a Ray cluster, with the embedded engine: rollouts and the loss of nodes, under streams."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from installation import BUCKET, ENDPOINT, MODELS, ORG, Installation, installed, until
from ray_machines import Machines
from ray_replicas import spec, until_true

from s3 import running_s3
from weighbridge.cli.demo.traffic import NOTHING, Tally, Traffic
from weighbridge.errors import UnavailableError
from weighbridge.replicas.launch import OWNER
from weighbridge.runtimes.base import ReplicaSpec, RuntimeState
from weighbridge.runtimes.processes import find_marked
from weighbridge.runtimes.ray.runtime import RayRuntime
from weighbridge.sdk import Client, ClientError, wait_for_deployment, wait_for_sync

STREAM_GROUPS = 4
"""Of eight streams each."""
STREAMS_ENDED = 24
"""After so many answers of a group's eight streams, those that ran before have ended."""
PAUSE_S = 0.5
"""Where streams are to go on while the cluster does what is tested, and not to take its cores."""
REPLACED_S = 15.0
LIMIT_S = 90.0
DEPLOYED_S = 180.0
"""Each old replica drains its streams first, and all share the machine with the new ones."""


@contextmanager
def serving(
    cluster: Machines, root: Path, namespace: str, *, keeps_head: bool = True
) -> Iterator[Installation]:
    """Version 1, by a replica on each of two nodes; they have ended when this does."""
    settings = {
        f"WEIGHBRIDGE_{name.upper()}": str(value)
        for name, value in cluster.settings(ray_namespace=namespace).items()
    }
    with running_s3() as s3, installed(root, s3, **settings) as found:
        with found.client() as client:
            free = until(lambda: free_cpus(client), LIMIT_S, "the nodes")
        found.prepare(spread="prefer")
        found.deploy(1)
        yield found
        with found.client() as client:
            client.admin.endpoints.delete(ENDPOINT)
            until(lambda: not engines(cluster), LIMIT_S, "the end of its engines")
            # An engine that has ended keeps its place until the server has been told how. A head that comes back
            # never frees the place of what was being placed when it was lost: no actor has it, and Ray counts it.
            until(lambda: not keeps_head or is_free_again(client, free), LIMIT_S, "their places")


@pytest.fixture(scope="module")
def site(cluster: Machines, make_public_directory: Callable[[], Path]) -> Iterator[Installation]:
    with serving(cluster, make_public_directory(), "site") as found:
        yield found


def engines(cluster: Machines) -> list[int]:
    return [
        process.identity.pid
        for node in cluster.nodes.values()
        for process in find_marked(node.directory / "run")
    ]


def free_cpus(client: Client) -> dict[str, float]:
    """By node."""
    nodes = client.admin.nodes()
    return {node["name"]: node["free"]["cpus"] for node in nodes if node["alive"]}


def is_free_again(client: Client, before: dict[str, float]) -> bool:
    now = free_cpus(client)
    return all(now.get(name, 0.0) >= cpus for name, cpus in before.items())


def ready_nodes(site: Installation) -> dict[str, str]:
    """Node by replica, of those that are ready."""
    with site.client() as client:
        found = client.admin.replicas.list(ENDPOINT)
        return {one.id: one.node for one in found if one.state == "ready"}


@contextmanager
def streams(
    site: Installation, count: int = STREAM_GROUPS, *, pause_s: float = 0.0
) -> Iterator[list[Traffic]]:
    """Clients that stream and never try again: thirty-two without pause, or `count` times eight."""
    with site.client(retries_max=0) as client, ExitStack() as stack:
        groups = [stack.enter_context(site.traffic(client, pause_s=pause_s)) for _ in range(count)]
        for group in groups:
            group.wait_for_answers(2, timeout_s=LIMIT_S)
        yield groups


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


def marked_names(cluster: Machines) -> set[str]:
    return {
        process.mark.name
        for node in cluster.nodes.values()
        for process in find_marked(node.directory / "run")
    }


def cut_requests(site: Installation) -> list[dict]:
    """What the gateway has logged of answers that broke off."""
    lines = (site.root / "data/logs/gateway.log").read_text().splitlines()
    return [json.loads(line) for line in lines if '"code":"answer_cut"' in line]


def deploy(site: Installation, version: int) -> None:
    with site.client() as client:
        asked = site.ask_for(client, version)
        wait_for_deployment(client, ENDPOINT, asked.id, timeout_s=DEPLOYED_S)


def total(groups: list[Traffic]) -> Tally:
    return sum((group.tally() for group in groups), NOTHING)


def routed_urls(site: Installation) -> str:
    return json.dumps(json.loads((site.run_dir / "routes.json").read_text()))


def test_a_rollout_replaces_the_replicas_on_every_node_without_a_failed_stream(site, cluster):
    assert sorted(ready_nodes(site).values()) == ["n1", "n2"]
    with streams(site) as groups:
        deploy(site, 2)
        for group in groups:
            group.wait_for_answers(2, timeout_s=LIMIT_S)
    tally = total(groups)
    assert tally.clean, tally
    assert tally.answered.keys() == {"1", "2"}, tally
    assert sorted(ready_nodes(site).values()) == ["n1", "n2"]


def test_a_control_process_that_is_killed_in_a_rollout_goes_on_with_it_and_stops_what_it_does_not_know(
    site, cluster
):
    """Its driver ends with it. Nobody asked for the stranger: an actor that outlived its row, say (D4)."""
    stranger = RayRuntime(cluster.options(ray_namespace="site"), time.monotonic)
    with streams(site, count=1, pause_s=PAUSE_S) as groups:
        with site.client() as client:
            (shape,) = client.admin.endpoints.list()
            asked = site.ask_for(client, 2 if shape.serving == "1" else 1)
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
    with site.client() as client:
        (shape,) = client.admin.endpoints.list()
        deploy(site, 2 if shape.serving == "1" else 1)
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
