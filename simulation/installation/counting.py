"""Finished requests on their way into the database, where the gate finds them; files and offsets are left out."""

from simulation.installation.site import Site
from simulation.memory.database import SimDatabase
from weighbridge.errors import UnavailableError
from weighbridge.usage import store

PERIOD_S = 0.5


async def count_requests(site: Site) -> None:
    """Until the world is over. After a commit without an answer a few may be counted twice."""
    try:
        await _count(site)
    except Exception as error:  # noqa: BLE001 - whatever it is, the world is not to go on without counting
        site.loop.broken.append(error)


async def _count(site: Site) -> None:
    database = SimDatabase(site.server)
    spool = site.gateway.spool
    assert spool is not None
    while True:
        await site.loop.pause(PERIOD_S)
        batch = spool[:]
        if not batch:
            continue
        try:
            async with database.begin() as tx:
                await store.add_requests(tx, batch)
        except UnavailableError:
            continue
        del spool[: len(batch)]
