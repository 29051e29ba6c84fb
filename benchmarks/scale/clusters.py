"""A real Ray cluster of three machines beside the local runtime: deploy to first token, and the loss of a node.

Nothing is measured where ray is not installed.
"""

import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Candidate, Result
from weighbridge.cli.demo.traffic import NOTHING, Tally
from weighbridge.sdk import Client, ClientError

if TYPE_CHECKING:
    from installation import Installation
    from ray_machines import Machines

TESTS = Path(__file__).parents[2] / "tests"
DEPLOYS = 5
LOSSES = 3
LIMIT_S = 120.0
LOOK_S = 0.01
STREAM_GROUPS = 2
SETTINGS = {"WEIGHBRIDGE_HOLD_S": "0"}
"""A caller that is held would be answered later than the first token could come."""


def run() -> Iterator[Result]:
    if importlib.util.find_spec("ray") is None:
        print("ray is not installed here: its times are not measured (pip install '.[ray]')")
        return
    # The cluster and the installations are those of the tests.
    sys.path += [str(TESTS), str(TESTS / "system"), str(TESTS / "cluster")]
    from ray_machines import running_cluster  # noqa: PLC0415 - only where ray is

    with running_cluster(nodes=2, base=60) as machines:
        yield _first_tokens(machines)
        yield _losses(machines)


def _first_tokens(machines: "Machines") -> Result:
    took_s: dict[str, list[float]] = {"local": [], "Ray": []}
    with _site() as local, _site(machines) as cluster:
        for number in range(DEPLOYS + 1):  # the first warms up, and is left out
            for name, site in (("local", local), ("Ray", cluster)):
                measured_s = _deploy_to_first_token(site, f"acme-{number}")
                if number:
                    took_s[name].append(measured_s)
    return Result(
        name="scale_first_token",
        title="a version deployed to a new endpoint",
        command="python -m benchmarks scale",
        candidates=[
            Candidate(name, {"deploy_to_first_token_s": samples, "max_s": [max(samples)]})
            for name, samples in took_s.items()
        ],
        notes=[
            "The shipped model on llama.cpp, one replica, in turn on both; weights are on the machine."
        ],
    )


def _deploy_to_first_token(site: "Installation", endpoint: str) -> float:
    from installation import ARCH, ORG, until  # noqa: PLC0415 - on the path by now

    with site.client(retries_max=0) as client:
        client.admin.endpoints.create(endpoint, org_name=ORG, model_arch_id=ARCH)
        began_s = time.monotonic()
        site.ask_for(client, 1, endpoint)
        while not _first_token(client, endpoint):
            assert time.monotonic() - began_s < LIMIT_S
            time.sleep(LOOK_S)
        took_s = time.monotonic() - began_s
        until(lambda: client.endpoints.get(endpoint).deployed_models[0].final, what="its end")
        client.admin.endpoints.delete(endpoint)
        until(lambda: _ended(client, endpoint), LIMIT_S, "the end of its replica")
    return took_s


def _first_token(client: Client, endpoint: str) -> bool:
    messages = [{"role": "user", "content": "Which version are you?"}]
    try:
        with client.chat.stream(endpoint, messages, temperature=0) as stream:
            return any(chunk.text for chunk in stream)
    except ClientError:
        return False


def _ended(client: Client, endpoint: str) -> bool:
    """Also of an endpoint that is deleted."""
    found = [one for one in client.admin.replicas.list() if one.endpoint_id == endpoint]
    return all(one.state in ("stopped", "failed", "lost") for one in found)


def _losses(machines: "Machines") -> Result:
    """A node of two is killed under sixteen streams; it comes back before the next is."""
    from installation import until  # noqa: PLC0415 - on the path by now

    replaced_s, failed, cut, whole = [], [], [], []
    with _site(machines) as site:
        site.deploy(1)
        for number in range(LOSSES):
            until(lambda: _nodes(site) == ["n1", "n2"], LIMIT_S, "a replica on each node")
            took_s, tally = _lose(site, machines)
            replaced_s.append(took_s)
            failed.append(float(tally.failed))
            cut.append(float(tally.cut))
            whole.append(float(sum(tally.answered.values())))
            machines.start_node("n2", "--labels", "rack=r2", "--num-gpus", "2")
            if number + 1 < LOSSES:
                site.deploy(2 - number % 2)  # spreads them over both nodes again
    return Result(
        name="scale_node_loss",
        title=f"a node of two killed under {STREAM_GROUPS * 8} streams",
        command="python -m benchmarks scale",
        candidates=[
            Candidate(
                f"{LOSSES} times",
                {
                    "replaced_s": replaced_s,
                    "replaced_max_s": [max(replaced_s)],
                    "failed": failed,
                    "cut": cut,
                    "whole_streams": whole,
                },
            )
        ],
        notes=[
            "Ray's health checks tuned as docs/operating/ray.md says; `cut` ran on the node that died."
        ],
    )


def _lose(site: "Installation", machines: "Machines") -> tuple[float, Tally]:
    """Kill the second node; seconds until two replicas beside its own are ready, and what the streams saw."""
    from installation import ENDPOINT, until  # noqa: PLC0415 - on the path by now

    with site.client(retries_max=0) as client, ExitStack() as stack:
        doomed = {r.id for r in client.admin.replicas.list(ENDPOINT) if r.node == "n2"}
        groups = [stack.enter_context(site.traffic(client)) for _ in range(STREAM_GROUPS)]
        for group in groups:
            group.wait_for_answers(4, timeout_s=LIMIT_S)
        machines.nodes["n2"].kill()
        began_s = time.monotonic()
        until(
            lambda: len(set(site.ready_replicas(client)) - doomed) == 2, LIMIT_S, "its replacement"
        )
        took_s = time.monotonic() - began_s
        for group in groups:
            group.wait_for_answers(4, timeout_s=LIMIT_S)
    return took_s, sum((group.tally() for group in groups), NOTHING)


def _nodes(site: "Installation") -> list[str]:
    from installation import ENDPOINT  # noqa: PLC0415 - on the path by now

    with site.client() as client:
        found = client.admin.replicas.list(ENDPOINT)
        return sorted(one.node for one in found if one.state == "ready")


@contextmanager
def _site(machines: "Machines | None" = None) -> Iterator["Installation"]:
    """A prepared installation, local or on the cluster; nothing of it is left afterwards."""
    from installation import ENDPOINT, installed, until  # noqa: PLC0415 - on the path by now

    from s3 import running_s3  # noqa: PLC0415

    settings = dict(SETTINGS)
    if machines is not None:
        settings |= {
            f"WEIGHBRIDGE_{name.upper()}": str(value)
            for name, value in machines.settings(ray_namespace="bench").items()
        }
    with tempfile.TemporaryDirectory(prefix="wb-bench-", dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        with running_s3() as s3, installed(root, s3, **settings) as site:
            site.prepare(spread="prefer")
            yield site
            with site.client() as client:
                if any(one.endpoint_id == ENDPOINT for one in client.admin.endpoints.list()):
                    client.admin.endpoints.delete(ENDPOINT)
                until(lambda: _ended(client, ENDPOINT), LIMIT_S, "the end of its replicas")
