"""Waiting for the first of several events."""

import asyncio


async def first_of(*events: asyncio.Event, limit_s: float | None = None) -> None:
    """Until one of them is set, or the limit."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
