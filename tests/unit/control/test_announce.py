"""Wake-ups between processes: heard by the others alone, and never needed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text

from weighbridge.control.announce import CHANNEL, SharedWake
from weighbridge.control.wake import Wake
from weighbridge.storage.database import Database

LIMIT_S = 20.0
LISTENERS = f"SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN \"{CHANNEL}\"'"


@asynccontextmanager
async def listening(database: Database, sender: str) -> AsyncIterator[tuple[SharedWake, Wake]]:
    """A process's wake-ups; it hears the others once this is entered."""
    wake = Wake()
    shared = SharedWake(database, wake, sender)
    waiting = asyncio.create_task(wake.wait("routes", LIMIT_S))
    await asyncio.sleep(0)
    tasks = [asyncio.create_task(shared.announce()), asyncio.create_task(shared.listen())]
    # Whoever begins to listen looks once: what was told before is not told again.
    await asyncio.wait_for(waiting, LIMIT_S)
    try:
        yield shared, wake
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def woken(wake: Wake, name: str, limit_s: float = LIMIT_S) -> bool:
    before = asyncio.get_running_loop().time()
    await wake.wait(name, limit_s)
    return asyncio.get_running_loop().time() - before < limit_s


async def test_a_wake_up_reaches_the_other_process_and_does_not_come_back(
    database: Database,
) -> None:
    async with listening(database, "a") as (one, own), listening(database, "b") as (_, other):
        waiting = asyncio.create_task(woken(other, "routes"))
        await asyncio.sleep(0)
        one("routes")
        assert await waiting
        assert await woken(own, "routes")  # its own, from the call itself
        one("unheard-of")
        assert not await woken(own, "routes", 0.3)


async def test_who_lost_the_connection_looks_once_and_hears_again(database: Database) -> None:
    async with listening(database, "a") as (one, _), listening(database, "b") as (_, other):
        waiting = asyncio.create_task(woken(other, "routes"))
        await asyncio.sleep(0)
        async with database.begin() as tx:
            for pid in (await tx.execute(text(LISTENERS))).scalars().all():
                await tx.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert await waiting
        again = asyncio.create_task(woken(other, "routes"))
        await asyncio.sleep(0)
        one("routes")
        assert await again


async def test_while_the_database_is_away_a_wake_up_counts_here_alone() -> None:
    wake = Wake()
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    shared = SharedWake(away, wake, "a")
    tasks = [asyncio.create_task(shared.announce()), asyncio.create_task(shared.listen())]
    waiting = asyncio.create_task(woken(wake, "routes"))
    await asyncio.sleep(0)
    shared("routes")
    assert await waiting
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await away.close()
