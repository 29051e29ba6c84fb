"""The Ray driver: a child of the control process, which alone imports ray and answers calls on its standard streams."""

import argparse
import asyncio
import os
import platform
import signal
import sys
import time
from typing import BinaryIO

import msgspec

from weighbridge.errors import UnavailableError, WeighbridgeError
from weighbridge.runtimes import wire
from weighbridge.runtimes.ray.wire import CALLS_MAX, LINE_BYTES_MAX, Answer, Call, Greeting
from weighbridge.runtimes.shim import PR_SET_PDEATHSIG, prctl

try:
    import ray

    from weighbridge.runtimes.ray.cluster import Cluster
    from weighbridge.runtimes.ray.fleet import Fleet
except ModuleNotFoundError as error:
    if error.name != "ray":
        raise
    ray = None


def main() -> None:
    arguments = _arguments()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Whatever Ray prints must not come between the lines.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if ray is None:
        words = (
            f"{sys.executable} has no ray: pip install 'weighbridge[ray]', or set "
            "WEIGHBRIDGE_RAY_PYTHON to an interpreter that has it."
        )
        _write(output, Greeting(error_code="ray_missing", error_message=words))
        os._exit(os.EX_UNAVAILABLE)
    try:
        cluster = Cluster.connect(arguments.address, arguments.namespace, arguments.node_ip)
    except UnavailableError as refused:
        _write(output, Greeting(error_code=refused.code, error_message=refused.message))
        os._exit(os.EX_UNAVAILABLE)
    _write(output, Greeting(ray.__version__, platform.python_version()))
    asyncio.run(Driver(Fleet(cluster, time.monotonic), output).serve())
    # A thread that hangs in a call to a head that is away must not keep the process.
    os._exit(0)


class Driver:
    """Turns lines into calls of the fleet, one beside the other."""

    def __init__(self, fleet: "Fleet", output: BinaryIO) -> None:
        self._fleet = fleet
        self._output = output
        self._decoder = msgspec.json.Decoder(Call)
        self._answering: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(CALLS_MAX)

    async def serve(self) -> None:
        """Until the end of the input."""
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while line := await reader.readline():
            call = self._decoder.decode(line)
            await self._room.acquire()
            task = asyncio.create_task(self._answer(call))
            self._answering.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._room.release()
        task.result()

    async def _answer(self, call: Call) -> None:
        try:
            reply = await self._perform(call.request)
        except WeighbridgeError as error:
            reply = wire.refusal(error)
        except Exception as error:  # noqa: BLE001 - the edge of the process: the caller is told
            reply = wire.refusal(UnavailableError(f"The Ray driver failed: {error!r}."))
        _write(self._output, Answer(call.number, reply))

    async def _perform(self, request: wire.Request) -> wire.Reply:
        match request:
            case wire.Launch(spec=spec, epoch=epoch):
                await self._fleet.launch(spec, epoch)
            case wire.List(selector=selector, epoch=epoch):
                return wire.Reply(replicas=await self._fleet.statuses(selector, epoch))
            case wire.Stop(name=name, grace_s=grace_s, epoch=epoch):
                await self._fleet.stop(name, min(max(0.0, grace_s), wire.GRACE_S_MAX), epoch)
            case wire.Forget(name=name, epoch=epoch):
                await self._fleet.forget(name, epoch)
            case wire.Logs(name=name, tail_bytes=tail_bytes):
                limit = min(max(0, tail_bytes), wire.LOG_TAIL_BYTES_MAX)
                return wire.Reply(text=await self._fleet.logs(name, limit))
            case wire.Fetch(weights=weights, nodes=nodes, epoch=epoch):
                return wire.Reply(fetches=await self._fleet.fetch(weights, nodes, epoch))
            case wire.Capacity():
                return wire.Reply(nodes=await self._fleet.capacity())
        return wire.Reply()


def _write(output: BinaryIO, message: msgspec.Struct) -> None:
    output.write(msgspec.json.encode(message) + b"\n")
    output.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="weighbridge.runtimes.ray.driver", description=__doc__)
    parser.add_argument("--address", required=True, help="host:port of the head")
    parser.add_argument("--namespace", required=True, help="the actors of this installation")
    parser.add_argument("--node-ip", help="address of this machine's Ray node")
    return parser.parse_args()


if __name__ == "__main__":
    main()
