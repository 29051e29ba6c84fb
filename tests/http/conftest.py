"""Fixtures of the control plane's app: real routes, real database, real weight store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_world import ARCH, Caller, World, new_world
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.storage.database import Database


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    world = new_world(database, tmp_path)
    await world.architecture(ARCH)
    yield world
    await world.client.aclose()


@pytest.fixture
async def org(world: World) -> Org:
    return await world.org("my-org")


@pytest.fixture
async def member(world: World, org: Org) -> Caller:
    """Calls with a management key of my-org."""
    _, text = await world.key(KeyKind.MANAGEMENT, org)
    return Caller(world.client, text)


@pytest.fixture
async def operator(world: World) -> Caller:
    """Calls with an admin key."""
    _, text = await world.key(KeyKind.ADMIN, None)
    return Caller(world.client, text)
