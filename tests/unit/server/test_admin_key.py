"""An admin key that was lost is replaced on the server's own machine, whether the server runs or not."""

import asyncio
from pathlib import Path

import pytest

from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import KeyKind
from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.routing.tokens import load_pepper
from weighbridge.server.admin_key import new_admin_key
from weighbridge.settings import Settings
from weighbridge.storage import embedded
from weighbridge.storage.database import Database
from weighbridge.storage.schema.migrate import migrate


async def kind_of(url: str, settings: Settings, text: str) -> KeyKind:
    database, pepper = Database(url), load_pepper(settings.paths.secrets)
    async with database.begin() as tx:
        key = await accounts.authenticate(tx, pepper, text, Clock().now())
    await database.close()
    return key.kind


def test_a_lost_admin_key_is_replaced_on_the_servers_own_machine(public_tmp_path: Path) -> None:
    settings = Settings(data_dir=public_tmp_path)
    directory = settings.paths.postgres
    with pytest.raises(SetupError, match="no server's data"):
        new_admin_key(settings)
    assert not directory.exists()
    migrate(embedded.start(directory))
    try:
        while_up = new_admin_key(settings)
        assert embedded.is_running(directory)
        embedded.stop(directory)
        while_down = new_admin_key(settings)
        assert not embedded.is_running(directory)
        url = embedded.start(directory)
        kinds = [asyncio.run(kind_of(url, settings, text)) for text in (while_up, while_down)]
        assert kinds == [KeyKind.ADMIN, KeyKind.ADMIN]
    finally:
        embedded.stop(directory)
