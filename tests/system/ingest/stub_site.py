"""A bucket on a stub with one small version, as a World needs it, and weights that take a while."""

import asyncio
import time

from ingest_world import SPECS, World
from s3_stub import S3Stub
from safetensors_files import safetensors_file
from weighbridge.weights.tensors import TensorSpec

KEY = "m/model.safetensors"
CONTENT = safetensors_file(SPECS)
ROLE = "arn:aws:iam::123456789012:role/reader"
BIG = (TensorSpec("a", "U8", (40 * 1024 * 1024,)), TensorSpec("b", "U8", (16 * 1024 * 1024,)))


class Stubbed:
    """What a World needs of a server."""

    def __init__(self, stub: S3Stub) -> None:
        self.endpoint_url = stub.endpoint_url
        self.role_arn = ROLE
        self.external_id = "external-id-of-acme"


async def until(world: World, condition: object) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        await world.reconciler.reconcile()
        await asyncio.sleep(0.05)
