"""Bytes passed on unread, one engine connection per client: what Python, asyncio and uvloop cost before any work.

No keys, no parsing, no balancing: the floor under every gateway that is written so.
"""

import asyncio
import itertools
import sys

import uvloop


class End(asyncio.Protocol):
    """One side of a pair; `other` is where its bytes go, once it is connected."""

    def __init__(self, other: "End | None" = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        if self.early:
            transport.write(self.early)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def write(self, data: bytes) -> None:
        if self.transport is None:
            self.early += data
        else:
            self.transport.write(data)


async def serve(port: int, engines: list[int]) -> None:
    loop = asyncio.get_running_loop()
    turns = itertools.cycle(engines)
    connecting: set[asyncio.Task[object]] = set()

    def accept() -> End:
        client = End()
        engine = client.other = End(client)
        task: asyncio.Task[object] = loop.create_task(
            loop.create_connection(lambda: engine, "127.0.0.1", next(turns))
        )
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return client

    server = await loop.create_server(accept, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
