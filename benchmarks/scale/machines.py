"""The fleet's machines, as recorded: a process that answers for 200 nodes what a runtime would, and runs nothing.

Lines on its stdin lose nodes, by name; a node that is lost comes back empty at the next line. It also answers
the questions of probes over HTTP, so that their cost can be measured.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import uvloop

from benchmarks.scale.fleet import NODES, replica_ids
from weighbridge.runtimes import wire
from weighbridge.runtimes.base import NodeInfo, ReplicaStatus, Resources, RuntimeState

_LABELS = {"owner": "weighbridge"}
_PLACES = Resources(cpus=64.0, gpus=8.0)


class Machines:
    def __init__(self, endpoints: int) -> None:
        self.replicas = {
            name: _running(name, place) for place, name in enumerate(replica_ids(endpoints))
        }
        self.started = len(self.replicas)
        self.lost: set[str] = set()

    def lose(self, nodes: Sequence[str]) -> None:
        self.lost = set(nodes)
        for name, status in self.replicas.items():
            if status.node in self.lost:
                self.replicas[name] = replace(
                    status, state=RuntimeState.LOST, url=None, reason=f"node {status.node} is lost"
                )

    def answer(self, line: bytes) -> wire.Reply:
        match msgspec.json.decode(line, type=wire.Request):
            case wire.Launch(spec=spec):
                if spec.name not in self.replicas:
                    self.started += 1
                    self.replicas[spec.name] = _running(spec.name, self.started)
            case wire.List():
                return wire.Reply(replicas=list(self.replicas.values()))
            case wire.Stop(name=name):
                if name in self.replicas:
                    self.replicas[name] = replace(
                        self.replicas[name], state=RuntimeState.EXITED, url=None, exit_code=0
                    )
            case wire.Forget(name=name):
                self.replicas.pop(name, None)
            case wire.Capacity():
                return wire.Reply(nodes=self.nodes())
        return wire.Reply()

    def nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node, node not in self.lost, _PLACES, _PLACES)
            for node in map(_node, range(NODES))
        ]

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(self.answer(line)) + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class Engines(asyncio.Protocol):
    """Answers for every replica: `/<served name>/health` and `/<served name>/v1/models`."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        path = data.split(b" ", 2)[1].decode()
        served = path.split("/")[1]
        body = b"{}"
        if path.endswith("/models"):
            body = json.dumps({"object": "list", "data": [{"id": served}]}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


def _node(place: int) -> str:
    return f"node-{place % NODES:03}"


def _running(name: str, place: int) -> ReplicaStatus:
    return ReplicaStatus(
        name=name,
        state=RuntimeState.RUNNING,
        labels=_LABELS,
        incarnation="i",
        node=_node(place),
        url="http://r",
    )


async def main(socket: Path, endpoints: int) -> None:
    machines, loop = Machines(endpoints), asyncio.get_running_loop()
    server = await asyncio.start_unix_server(
        machines.converse, sock=wire.private_listener(socket), limit=wire.REQUEST_BYTES_MAX
    )
    engines = await loop.create_server(Engines, "127.0.0.1", 0)
    over = asyncio.Event()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(machines.lose, line.split())
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=listen, daemon=True).start()
    print(engines.sockets[0].getsockname()[1], flush=True)
    await over.wait()
    engines.close()
    server.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
