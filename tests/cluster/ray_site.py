"""A whole installation on a Ray cluster, with the embedded engine: what it runs and where, and its clients."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from installation import ENDPOINT, Installation, installed, until
from ray_machines import Machines

from s3 import running_s3
from weighbridge.cli.demo.traffic import NOTHING, Tally, Traffic
from weighbridge.runtimes.processes import find_marked
from weighbridge.sdk import Client, Deployment, wait_for_deployment
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.node.holds import Holds

STREAM_GROUPS = 4
"""Of eight streams each."""
STREAMS_ENDED = 24
"""After so many answers of a group's eight streams, those that ran before have ended."""
PAUSE_S = 0.5
"""Where streams are to go on while the cluster does what is tested, and not to take its cores."""
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


def total(groups: list[Traffic]) -> Tally:
    return sum((group.tally() for group in groups), NOTHING)


def routed_urls(site: Installation) -> str:
    return json.dumps(json.loads((site.run_dir / "routes.json").read_text()))


def cut_requests(site: Installation) -> list[dict]:
    """What the gateway has logged of answers that broke off."""
    lines = (site.root / "data/logs/gateway.log").read_text().splitlines()
    return [json.loads(line) for line in lines if '"code":"answer_cut"' in line]


def marked_names(cluster: Machines) -> set[str]:
    return {
        process.mark.name
        for node in cluster.nodes.values()
        for process in find_marked(node.directory / "run")
    }


def cached(cluster: Machines, name: str) -> set[str]:
    """The versions that a node has."""
    return {
        path.name for path in (cluster.nodes[name].directory / "weights/store/versions").iterdir()
    }


def forget_unused(cluster: Machines, left: int) -> None:
    """Each node keeps only the versions that it serves, so many; who has ended lets go of his in a moment."""
    for node in cluster.nodes.values():
        if (node.directory / "weights").exists():
            until(
                lambda node=node: _kept(node.directory / "weights") == left, what="versions let go"
            )


def _kept(weights: Path) -> int:
    held = Holds(weights / "used").held()
    store = FilesystemStore(weights / "store")
    for digest in store.published() - held:
        store.delete_version(digest)
    return len(store.published())


def ask_for_other(site: Installation, client: Client) -> Deployment:
    """The version, of 1 and 2, that it does not serve; without waiting."""
    (shape,) = client.admin.endpoints.list()
    return site.ask_for(client, 2 if shape.serving == "1" else 1)


def deploy_other(site: Installation) -> None:
    with site.client() as client:
        wait_for_deployment(client, ENDPOINT, ask_for_other(site, client).id, timeout_s=DEPLOYED_S)
