"""The Ray runtime on a real cluster: what it promises of one replica, and what it says when it cannot."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from ray_machines import Machines
from ray_replicas import LIMIT_S, SECRET, answers, follower, leading, spec, state, until, until_true

from weighbridge.errors import LimitError, SetupError, UnavailableError
from weighbridge.runtimes.base import (
    GROUP_LABEL,
    NODES_LABEL,
    Placement,
    Resources,
    RuntimeState,
    Spread,
)
from weighbridge.runtimes.fit import obstacle
from weighbridge.runtimes.processes import child_pids, identify
from weighbridge.runtimes.ray.options import RayOptions
from weighbridge.runtimes.ray.runtime import RayRuntime


@pytest.fixture
async def runtime(cluster: Machines) -> AsyncIterator[RayRuntime]:
    async with leading(cluster) as found:
        yield found


async def test_a_replica_is_started_found_again_stopped_and_forgotten(cluster, runtime):
    await runtime.launch(spec("r1"))
    await runtime.launch(spec("r1"))  # a known name is left as it is
    status = await state(runtime, "r1", RuntimeState.RUNNING)
    assert status.labels == {"endpoint": "e1"}
    assert status.node in cluster.nodes
    assert status.url.startswith(f"http://{cluster.nodes[status.node].ip}:")
    assert await runtime.list({"endpoint": "another"}) == []

    another = RayRuntime(cluster.options(), time.monotonic)
    try:
        assert await state(another, "r1", RuntimeState.RUNNING) == status
    finally:
        await another.close()

    await runtime.stop("r1", 2.0)
    ended = await state(runtime, "r1", RuntimeState.EXITED)
    assert ended.reason.startswith("stopped; ")
    await runtime.forget("r1")
    assert await runtime.list({}) == []


async def test_what_an_engine_said_is_kept_and_its_place_is_free_once_its_end_was_told(runtime):
    await runtime.launch(spec("r1", "--exit-code", "3", resources=Resources(gpus=2)))
    ended = await state(runtime, "r1", RuntimeState.EXITED)
    assert (ended.exit_code, ended.reason) == (3, "exited with code 3")

    async def free_gpus() -> float:
        return sum(node.free.gpus for node in await runtime.capacity())

    await until(runtime, lambda all_: [one.state for one in all_] == [RuntimeState.EXITED])
    await until_true(free_gpus, 4.0)
    assert await runtime.logs("r1", 1000) == "engine says: last line\n"
    assert [one.exit_code for one in await runtime.list({})] == [3]


async def test_what_a_replica_held_is_not_given_back_for_one_that_leads_nobody(cluster, runtime):
    await runtime.launch(spec("r1", "--exit-code", "3"))
    async with follower(cluster) as another:
        assert (await state(another, "r1", RuntimeState.EXITED)).exit_code == 3
        for _ in range(3):
            (ended,) = await another.list({})
            assert (ended.state, ended.exit_code) == (RuntimeState.EXITED, 3)
        assert await another.logs("r1", 1000) == "engine says: last line\n"
        assert (await state(runtime, "r1", RuntimeState.EXITED)).exit_code == 3
        assert await runtime.logs("r1", 1000) == "engine says: last line\n"


async def test_a_driver_that_has_listed_nothing_finds_what_a_replica_says(cluster, runtime):
    await runtime.launch(spec("r1"))
    running = await state(runtime, "r1", RuntimeState.RUNNING)
    await asyncio.to_thread(answers, running.url)
    async with follower(cluster) as another:
        await until_true(lambda: another.logs("r1", 1000), "engine says: last line\n")
        assert await another.logs("nobody", 1000) == ""


async def test_a_controller_that_lost_its_lease_starts_nothing_that_its_successor_does_not_know(
    cluster,
):
    """Neither by a call that it makes later, nor by an actor of its that had waited for a place (D5)."""
    options = cluster.options(ray_namespace="fenced")
    old, new = (RayRuntime(options, time.monotonic, lambda e=epoch: e) for epoch in (7, 8))
    try:
        await until(old, lambda _: True)
        for name in ("full-1", "full-2"):
            await old.launch(spec(name, resources=Resources(1.0, 2)))
            await state(old, name, RuntimeState.RUNNING)
        await old.launch(spec("late", resources=Resources(1.0, 2)))
        await state(old, "late", RuntimeState.PENDING)

        known = await until(new, lambda all_: {"full-1", "full-2"} <= {one.name for one in all_})
        assert "late" not in {one.name for one in known if one.state is RuntimeState.RUNNING}
        for call in (
            old.launch(spec("later")),
            old.list({}),
            old.stop("full-1", 0.0),
            old.forget("full-1"),
        ):
            with pytest.raises(UnavailableError, match=r"epoch 8 leads .* this one's is 7"):
                await call
        for name in ("full-1", "full-2"):
            assert (await state(new, name, RuntimeState.RUNNING)).url
            await new.stop(name, 0.0)
            await state(new, name, RuntimeState.EXITED)
        # Its place is free now: it comes to life, and brings no engine.
        for _ in range(20):
            assert not [one for one in await new.list({}) if one.url]
            await asyncio.sleep(0.1)
        await new.launch(spec("late", resources=Resources(1.0, 2)))
        late = await state(new, "late", RuntimeState.RUNNING)
        assert await asyncio.to_thread(answers, late.url)
        await new.stop("late", 0.0)
        await state(new, "late", RuntimeState.EXITED)
        await new.list({})  # its end was told, so what it held is given back
    finally:
        await old.close()
        await new.close()


async def test_an_engine_sees_the_accelerators_that_are_its_own_and_no_secret_of_the_driver(
    runtime,
):
    for name, gpus in (("r1", 1), ("r2", 1), ("r3", 0)):
        await runtime.launch(
            spec(name, resources=Resources(1.0, gpus), placement=Placement({"rack": "r1"}))
        )
    found = {}
    for name in ("r1", "r2", "r3"):
        status = await state(runtime, name, RuntimeState.RUNNING)
        assert status.node == "n1"
        found[name] = environment_of(status.pid)
    seen = {name: variables["CUDA_VISIBLE_DEVICES"] for name, variables in found.items()}
    assert {seen["r1"], seen["r2"]} == {"0", "1"}
    assert seen["r3"] == ""
    assert found["r1"]["ENGINE_TOKEN"] == SECRET
    assert not [name for name in found["r1"] if name.startswith("RAY_AUTH")]


SPANNING = """
import http.server, json, os, sys, ray
from ray.util.placement_group import placement_group
ip = os.environ["VLLM_HOST_IP"]
ray.init(_node_ip_address=ip, log_to_driver=False)
first = {"GPU": 1, f"node:{ip}": 0.001}
group = placement_group([first, *({"GPU": 1} for _ in range(3))], strategy="PACK")
assert group.wait(60)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        told = {"devices": os.environ.get("CUDA_VISIBLE_DEVICES"), "group": group.bundle_count}
        self.wfile.write(json.dumps(told).encode())
http.server.HTTPServer((ip, int(sys.argv[1])), Answer).serve_forever()
"""
"""As the executor of an engine does it that spans nodes: it takes their accelerators by itself."""


async def test_an_engine_over_two_nodes_takes_the_accelerators_of_both_by_itself_and_gives_them_back(
    runtime,
):
    def free(nodes) -> float:
        return sum(node.free.gpus for node in nodes)

    async def free_now() -> float:
        return free(await runtime.capacity())

    wish = spec(
        "r1",
        argv=["{python}", "-c", SPANNING, "{port}"],
        env={"VLLM_HOST_IP": "{host}"},
        labels={NODES_LABEL: "2"},
        resources=Resources(1.0, 2),
        placement=Placement(nodes=2),
    )
    await runtime.launch(wish)
    with pytest.raises(LimitError, match="waits for 1 CPU, 2 GPU on each of 2 nodes"):
        await runtime.launch(replace(wish, name="r2"))
    status = await state(runtime, "r1", RuntimeState.RUNNING)
    told = await asyncio.to_thread(answers, status.url)
    assert told == {"devices": None, "group": 4}
    await until_true(free_now, 0.0)
    await runtime.stop("r1", 5.0)
    await state(runtime, "r1", RuntimeState.EXITED)
    await until_true(free_now, 4.0)


async def test_replicas_of_a_rollout_keep_to_different_nodes(runtime):
    apart = Placement(spread=Spread.STRICT, group="d1")
    for name in ("r1", "r2"):
        await runtime.launch(spec(name, placement=apart))
    nodes = {(await state(runtime, name, RuntimeState.RUNNING)).node for name in ("r1", "r2")}
    assert nodes == {"n1", "n2"}
    with pytest.raises(LimitError, match="waits for a node without another replica"):
        await runtime.launch(spec("r3", placement=apart))
    near = Placement(spread=Spread.PREFER, group="d2")
    for name in ("s1", "s2"):
        await runtime.launch(spec(name, placement=near))
    nodes = {(await state(runtime, name, RuntimeState.RUNNING)).node for name in ("s1", "s2")}
    assert nodes == {"n1", "n2"}


async def test_a_driver_that_has_listed_nothing_keeps_replicas_apart_as_its_predecessor_did(
    cluster, runtime
):
    apart = Placement(spread=Spread.STRICT, group="d1")
    labels = {GROUP_LABEL: "d1"}
    await runtime.launch(spec("r1", placement=apart, labels=labels))
    first = await state(runtime, "r1", RuntimeState.RUNNING)
    async with follower(cluster) as another:
        await another.launch(spec("r2", placement=apart, labels=labels))
        second = await state(another, "r2", RuntimeState.RUNNING)
        assert {first.node, second.node} == {"n1", "n2"}
        with pytest.raises(LimitError, match="waits for a node without another replica"):
            await another.launch(spec("r3", placement=apart, labels=labels))


async def test_a_preferred_node_that_is_full_by_now_is_not_waited_for_while_another_is_free(
    runtime,
):
    large = {"resources": Resources(cpus=3.0)}
    for name in ("r1", "r2"):  # the second is placed before the cluster says that the first is
        near = Placement(spread=Spread.PREFER, group=f"group of {name}")
        await runtime.launch(spec(name, placement=near, **large))
    nodes = {(await state(runtime, name, RuntimeState.RUNNING)).node for name in ("r1", "r2")}
    assert nodes == {"n1", "n2"}


async def test_a_preferred_spread_keeps_to_the_labels(runtime):
    large = {"resources": Resources(cpus=3.0)}
    for name in ("r1", "r2"):
        near = Placement({"rack": "r1"}, Spread.PREFER, group=f"group of {name}")
        await runtime.launch(spec(name, placement=near, **large))
    found = await until(runtime, lambda all_: any(one.url for one in all_))
    (running,) = [one for one in found if one.url]
    (other,) = {"r1", "r2"} - {running.name}
    assert running.node == "n1"
    words = "waits for 3 CPU on a node with rack=r1; 3 nodes have no room for it now"
    await until(runtime, lambda all_: (other, words) in [(one.name, one.reason) for one in all_])
    await runtime.stop(running.name, 1.0)
    assert (await state(runtime, other, RuntimeState.RUNNING)).node == "n1"


async def test_a_replica_without_a_place_waits_says_why_and_can_be_stopped(runtime):
    await runtime.launch(spec("r1", resources=Resources(1.0, 64)))
    waiting = await state(runtime, "r1", RuntimeState.PENDING)
    assert waiting.reason == "waits for 1 CPU, 64 GPU; 3 nodes have no room for it now"
    await runtime.stop("r1", 1.0)
    ended = await state(runtime, "r1", RuntimeState.EXITED)
    assert ended.reason == "stopped before it started"


async def test_nodes_are_shown_with_what_they_offer_and_what_never_fits_is_known(runtime):
    nodes = await runtime.capacity()
    assert [node.name for node in nodes] == ["head", "n1", "n2"]
    assert [node.total.gpus for node in nodes] == [0, 2, 2]
    assert [node.labels.get("rack") for node in nodes] == [None, "r1", "r2"]
    assert obstacle(nodes, Resources(1.0, 2), Placement()) is None
    assert obstacle(nodes, Resources(1.0, 3), Placement()) == (
        "a replica needs 1 CPU, 3 GPU; no node offers that "
        "(head: 0 CPU, 0 GPU; n1: 4 CPU, 2 GPU; n2: 4 CPU, 2 GPU)"
    )
    assert obstacle(nodes, Resources(), Placement({"rack": "r9"})) == (
        "a replica needs 1 CPU on a node with rack=r9; none of 3 nodes carries these labels"
    )


async def test_a_driver_that_is_killed_is_started_again_and_finds_the_replicas(runtime):
    await runtime.launch(spec("r1"))
    before = await state(runtime, "r1", RuntimeState.RUNNING)
    os.kill(driver_of(os.getpid()), signal.SIGKILL)
    assert await state(runtime, "r1", RuntimeState.RUNNING) == before
    assert await asyncio.to_thread(answers, before.url)


async def test_an_actor_that_is_killed_takes_its_engine_along_and_is_lost(runtime):
    await runtime.launch(spec("r1", "--children", "1"))
    status = await state(runtime, "r1", RuntimeState.RUNNING)
    children = await asyncio.to_thread(answers, status.url)
    os.kill(actor_of(status.pid), signal.SIGKILL)
    lost = await state(runtime, "r1", RuntimeState.LOST)
    assert lost.reason
    await until_true(lambda: gone([status.pid, *children["children"]]), True)


async def test_another_version_of_ray_and_a_wrong_token_are_refused_with_what_to_do(
    cluster, tmp_path
):
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import runpy, sys, ray\n"
        'ray.__version__ = "2.59.0"\n'
        "sys.argv = sys.argv[2:]\n"
        'runpy.run_module("weighbridge.runtimes.ray.driver", run_name="__main__")\' "$@"\n'
    )
    python.chmod(0o755)
    message, closed = await asyncio.gather(
        refusal(cluster.options(ray_python=str(python))),
        refusal(cluster.options(ray_auth_token="another-token-than-that")),
    )
    assert f"runs Ray {version('ray')} and Python 3." in message
    assert "the driver has Ray 2.59.0" in message
    assert "WEIGHBRIDGE_RAY_PYTHON" in message
    assert closed.startswith(f"The Ray cluster at {cluster.address} cannot be joined")
    assert "it refuses the driver's token. Set WEIGHBRIDGE_RAY_AUTH_TOKEN" in closed
    assert "another-token" not in closed


def test_a_cluster_without_authentication_must_be_wanted(cluster):
    with pytest.raises(SetupError, match="WEIGHBRIDGE_RAY_AUTH=off"):
        cluster.options(ray_auth_token=None)
    assert cluster.options(ray_auth="off").environment()["RAY_AUTH_MODE"] == "disabled"


async def refusal(options: RayOptions) -> str:
    runtime = RayRuntime(options, time.monotonic)
    try:
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            with pytest.raises(UnavailableError) as raised:
                await runtime.list({})
            if "being started" not in raised.value.message:
                return raised.value.message
            assert time.monotonic() < deadline_s
    finally:
        await runtime.close()


def environment_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text()
    return dict(item.split("=", 1) for item in text.split("\0") if item)


def gone(pids: list[int]) -> bool:
    return all(identify(pid) is None for pid in pids)


def driver_of(parent: int) -> int:
    def is_driver(pid: int) -> bool:
        return b"weighbridge.runtimes.ray.driver" in Path(f"/proc/{pid}/cmdline").read_bytes()

    return next(pid for pid in child_pids(parent) if is_driver(pid))


def actor_of(engine: int) -> int:
    """The Ray process that holds the other end of the shim's lifeline."""
    shim = int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])
    pipes = {str(path.readlink()) for path in Path(f"/proc/{shim}/fd").iterdir()}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::ReplicaActor"):
                held = {str(one.readlink()) for one in (path.parent / "fd").iterdir()}
                if {pipe for pipe in pipes & held if pipe.startswith("pipe:")}:
                    return int(path.parent.name)
    raise AssertionError(f"nobody holds the lifeline of engine {engine}")
