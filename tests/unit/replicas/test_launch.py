"""What is asked of the runtime for a replica: its command, its weights, and the accelerators it needs."""

from pathlib import Path

import aiohttp
import pytest

from toys.world import replica
from weighbridge.engines.base import EngineSettings
from weighbridge.engines.vllm import Vllm
from weighbridge.errors import InvalidError
from weighbridge.replicas.launch import engine_launch, replica_spec
from weighbridge.replicas.store import Watched
from weighbridge.replicas.weights.ways import on_path, pulled
from weighbridge.server.roles.processes import services
from weighbridge.settings import Settings
from weighbridge.weights.node.source import WeightSource


class Store:
    def version_dir(self, digest: str) -> Path:
        return Path("/store/versions") / digest


async def test_a_replica_asks_for_the_accelerators_of_its_architecture() -> None:
    settings = EngineSettings(engine="vllm", threads=4, gpus=2)
    watched = Watched(replica("r-1"), "org_one", settings, size_bytes=10)
    launch = engine_launch(watched, b"pepper", "/cache")
    async with aiohttp.ClientSession() as session:
        spec = await replica_spec(watched, Vllm(session), launch, on_path(Store()), grace_s=5)
    assert (spec.resources.gpus, spec.resources.cpus) == (2, 4)
    assert spec.weights.path == f"/store/versions/{watched.replica.digest}"
    assert spec.secrets
    assert not [word for word in spec.argv if launch.token in word]


async def test_an_engine_over_several_nodes_is_not_started_from_what_one_of_them_pulls() -> None:
    settings = EngineSettings(engine="vllm", gpus=2, nodes=2)
    watched = Watched(replica("r-1"), "org_one", settings, size_bytes=10)
    launch = engine_launch(watched, b"pepper", "/cache")
    pull = pulled(lambda _: None, lambda _digest, _size: WeightSource("http://10.0.0.2:8082"))
    async with aiohttp.ClientSession() as session:
        with pytest.raises(InvalidError, match="WEIGHBRIDGE_RAY_WEIGHTS=path"):
            await replica_spec(watched, Vllm(session), launch, pull, grace_s=5)


def test_the_node_agent_is_told_which_accelerators_it_may_give_out() -> None:
    agent = services(Settings(gpus="0,1"), "postgresql:///x")[0]
    assert agent.argv[agent.argv.index("--gpus") + 1] == "0,1"
