"""Whether an architecture may say that its replicas span several nodes: it depends on where this server runs them."""

from dataclasses import replace

import aiohttp
import pytest

from control_world import World
from weighbridge.api.admin.architectures import check_engine
from weighbridge.engines.base import EngineSettings
from weighbridge.engines.catalog import engines
from weighbridge.errors import InvalidError
from weighbridge.settings import Settings

ON_RAY = {"runtime": "ray", "ray_address": "head:6379"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs a Ray cluster"),
        (ON_RAY, "at the same path on all of them"),
        (ON_RAY | {"ray_weights": "path"}, None),
    ],
)
async def test_a_span_needs_a_cluster_with_its_weights_on_a_shared_path(
    world: World, settings: dict[str, str], words: str | None
) -> None:
    wish = EngineSettings(engine="vllm", nodes=2, gpus=8)
    async with aiohttp.ClientSession() as session:
        parts = replace(
            world.parts, settings=Settings.model_validate(settings), engines=engines(session)
        )
        if words is None:
            check_engine(parts, wish)
            return
        with pytest.raises(InvalidError, match=words) as refused:
            check_engine(parts, wish)
    assert refused.value.param == "engine.nodes"
