"""A bucket on a stub whose role and rights are right, and an org that reads it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from doctor_stub import KEY, Stubbed, strict_role

from ingest_world import SPECS, World, start_world
from s3_stub import S3Stub, running_stub
from safetensors_files import safetensors_file
from weighbridge.storage.database import Database


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    with running_stub() as server:
        server.objects[KEY] = safetensors_file(SPECS)
        server.refusal = strict_role
        yield server


@pytest.fixture
async def world(stub: S3Stub, database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with start_world(Stubbed(stub), database, tmp_path) as ready:
        yield ready
