"""Tell a reconciler to look now. A wake-up carries no data: whoever wakes reads everything again."""

import asyncio
from collections import defaultdict


class Wake:
    """One event per reconciler name, within one process; the loops' timers find what a lost wake-up missed."""

    def __init__(self) -> None:
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def __call__(self, name: str) -> None:
        self._events[name].set()

    def known(self, name: str) -> None:
        """As a call, for a name from elsewhere: one that nobody waits for makes nothing."""
        if name in self._events:
            self._events[name].set()

    def everybody(self) -> None:
        for event in self._events.values():
            event.set()

    async def wait(self, name: str, timeout_s: float) -> None:
        """Return at the next wake-up of `name`, or after `timeout_s`."""
        event = self._events[name]
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        event.clear()
