"""Another admin key, made on the server's own machine: for an operator whose keys are lost or expired."""

import asyncio

from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import KeyKind
from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.routing.tokens import load_pepper
from weighbridge.server.supervisor import take_supervisor_lock
from weighbridge.settings import Settings
from weighbridge.storage import embedded
from weighbridge.storage.database import Database
from weighbridge.storage.schema.migrate import migrate

KEY_NAME = "made on the server"


def new_admin_key(settings: Settings) -> str:
    """The text of a new admin key; whoever may write the data directory is the operator.

    Works on a server that runs, at once, and on one that does not. Raises SetupError where there is none,
    UnavailableError when its database is away.
    """
    paths = settings.paths
    if settings.database_url is not None:
        return asyncio.run(_create(settings.database_url.get_secret_value(), settings))
    if not (paths.postgres / "PG_VERSION").exists():
        raise SetupError(
            f"There is no server's data in {paths.root}; `weighbridge up` makes it, with a first admin key.",
            code="no_data",
        )
    if embedded.is_running(paths.postgres):
        return asyncio.run(_create(embedded.start(paths.postgres), settings))
    with take_supervisor_lock(paths.run):
        url = embedded.start(paths.postgres)
        try:
            migrate(url)
            return asyncio.run(_create(url, settings))
        finally:
            embedded.stop(paths.postgres)


async def _create(url: str, settings: Settings) -> str:
    database, clock = Database(url), Clock()
    try:
        async with database.begin() as tx:
            _, text = await accounts.create_key(
                tx,
                kind=KeyKind.ADMIN,
                org_id=None,
                name=KEY_NAME,
                pepper=load_pepper(settings.paths.secrets),
                key_id=clock.new_short_id(),
                secret=clock.new_secret(),
                now=clock.now(),
            )
    finally:
        await database.close()
    return text
