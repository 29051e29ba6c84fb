"""Weights on nodes that share no directory with the server or with each other: pulled, verified, then loaded."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray_machines import Machines
from ray_replicas import answers, spec, state
from ray_replicas import until as until_listed
from ray_site import cached, forget_unused
from test_ray_runtime import runtime

from s3 import running_s3
from weighbridge.runtimes.base import Placement, ReplicaSpec, ReplicaStatus, RuntimeState, Weights
from weighbridge.runtimes.ray.runtime import RayRuntime
from weighbridge.weights.digest import HASH_PART_BYTES
from weighbridge.weights.manifest import Manifest
from weighbridge.weights.node.pull import PULLING
from weighbridge.weights.served import server as server_module
from weight_site import WeightSite, content, in_bucket, publish, running_weights

__all__ = ["runtime"]

FILES = {"config.json": b"{}", "model.safetensors": content(HASH_PART_BYTES + 1000)}
ON_N1 = Placement({"rack": "r1"})
LIMIT_S = 90.0
HELD_S = 3.0
"""How long nobody may be drained while the weights do not come."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeightSite]:
    with running_weights(tmp_path_factory.mktemp("weights") / "store") as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def no_leftovers(cluster: Machines) -> None:
    """Other tests' replicas had the same versions."""
    forget_unused(cluster, left=0)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The bytes of each answer with a blob; while it begins with -1, none is given."""
    found: list[int] = []
    real = server_module._send_file

    def note(peer, descriptor: int, start: int, end: int) -> None:
        while found[:1] == [-1]:
            time.sleep(0.02)
        found.append(end - start)
        real(peer, descriptor, start, end)

    monkeypatch.setattr(server_module, "_send_file", note)
    yield found
    found[:] = []


def pulling(
    name: str, site: WeightSite, manifest: Manifest, placement: Placement = ON_N1, **changes: object
) -> ReplicaSpec:
    source = site.source(manifest.digest, **changes)
    weights = Weights(manifest.digest, "", manifest.size_bytes, source)
    return replace(spec(name, placement=placement), weights=weights)


async def pulls(runtime: RayRuntime, name: str) -> ReplicaStatus:
    def reached(all_):
        return any(one.name == name and (one.reason or "").startswith(PULLING) for one in all_)

    return next(one for one in await until_listed(runtime, reached) if one.name == name)


async def test_replicas_of_a_node_wait_for_one_pull_and_start_from_a_whole_version(
    cluster, runtime, weights, given
):
    manifest = publish(weights.store, FILES)
    given.append(-1)
    for name in ("r1", "r2"):
        wish = pulling(name, weights, manifest, placement=ON_N1)
        await runtime.launch(wish)
        waiting = await pulls(runtime, name)
        assert (waiting.state, waiting.node) == (RuntimeState.FETCHING, "n1")
    versions = cluster.nodes["n1"].directory / "weights/store/versions"
    assert list(versions.iterdir()) == []
    given.clear()
    for name in ("r1", "r2"):
        status = await state(runtime, name, RuntimeState.RUNNING)
        model = Path(answers(status.url)["model"])
        assert model == versions / manifest.digest
        assert {n: (model / n).read_bytes() for n in FILES} == FILES
    assert sum(given) == manifest.size_bytes


async def test_a_node_brings_a_version_from_a_bucket_itself(cluster, runtime, weights):
    manifest = publish(weights.store, {**FILES, "config.json": b'{"bucket": 1}'})
    with running_s3() as s3:
        source = in_bucket(s3, weights.store, manifest)
        wanted = Weights(manifest.digest, "", manifest.size_bytes, source)
        await runtime.launch(replace(spec("r1", placement=ON_N1), weights=wanted))
        status = await state(runtime, "r1", RuntimeState.RUNNING)
    model = Path(answers(status.url)["model"])
    assert model == cluster.nodes["n1"].directory / "weights/store/versions" / manifest.digest
    assert (model / "config.json").read_bytes() == b'{"bucket": 1}'
    assert source.secret_access_key not in await runtime.logs("r1", 100_000)


async def test_a_pull_that_cannot_be_says_why_and_one_that_waits_can_be_stopped(
    runtime, weights, given
):
    manifest = publish(weights.store, {**FILES, "config.json": b'{"a": 1}'})
    expired = weights.token(manifest.digest, valid_s=-1)
    await runtime.launch(pulling("r1", weights, manifest, token=expired))
    ended = await state(runtime, "r1", RuntimeState.EXITED)
    assert ended.reason.endswith("(weights_token_expired)")
    await runtime.launch(pulling("r2", weights, manifest, url="http://127.0.0.1:9"))
    await until_listed(
        runtime, lambda all_: any("(weights_unreachable)" in (one.reason or "") for one in all_)
    )
    await runtime.stop("r2", 1.0)
    assert (await state(runtime, "r2", RuntimeState.EXITED)).reason == "stopped before it started"


async def fetched(runtime: RayRuntime, weights: Weights) -> dict[str, str]:
    """By node what was said at the end; of nodes that live."""
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        found = await runtime.fetch(weights, ["n1", "n2", "n9"])
        if all(one.done for one in found):
            return {one.node: one.words for one in found}
        assert time.monotonic() < deadline_s, found


async def test_nodes_bring_a_version_ahead_of_the_replica_that_will_need_it(
    cluster, runtime, weights, given
):
    manifest = publish(weights.store, {**FILES, "config.json": b'{"ahead": 1}'})
    wish = pulling("r1", weights, manifest)
    for _ in range(2):  # what a node has removed since then is brought again
        forget_unused(cluster, left=0)
        assert await fetched(runtime, wish.weights) == {"n1": "", "n2": ""}
        assert all(manifest.digest in cached(cluster, name) for name in ("n1", "n2"))
    given.clear()
    await runtime.launch(wish)
    await state(runtime, "r1", RuntimeState.RUNNING)
    assert given == []
    absent = replace(wish.weights, digest="0" * 64)
    ends = await fetched(runtime, absent)
    assert all("(weights_token_wrong)" in words for words in ends.values()), ends
