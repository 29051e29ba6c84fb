"""What a worker writes in one turn of its loop, sent together at the turn's end."""

import asyncio


class Outbox:
    """Each write may wake the process that reads it; in a row, one wake-up serves for many.

    On loopback, where engines are, that is a third of a request's cost.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Also before a connection is closed, so that its last bytes go first."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
