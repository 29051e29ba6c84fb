"""The Ray actor of one replica: a node agent for a single engine, behind the same shim.

Its process is Ray's. When it ends by any cause the engine's lifeline closes, and the shim stops the engine.
"""

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import ray

from weighbridge.runtimes.base import ReplicaSpec, ReplicaStatus
from weighbridge.runtimes.node import Node, Place
from weighbridge.runtimes.ray.fence.epochs import HeadKeyValues, check_epoch
from weighbridge.runtimes.ray.node_dir import WEIGHTS_DIR, node_dir
from weighbridge.runtimes.slots import Room
from weighbridge.weights.node.puller import NodePuller

Result = TypeVar("Result")

CALL_TIMEOUT_S = 10.0
LOGS_KEPT_MAX = 200
"""Logs of engines on a node, those of running ones included."""


class ReplicaActor:
    """Started idle, so that Ray's own records hold no secret; `launch` brings the engine's command."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        self._node_id: str = context.get_node_id()
        self._actor_id: str = context.get_actor_id()
        self._namespace: str = context.namespace
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = _devices(len(context.get_accelerator_ids().get("GPU", [])))
        host: str = ray.util.get_node_ip_address()
        home = node_dir(os.environ, Path(tempfile.gettempdir()), os.geteuid())
        place = Place(
            node=self._node_id,
            run_dir=home / "run",
            logs_dir=home / "logs",
            room=Room(slots=1, devices=devices),
            host=host,
            ports_dir=home / "ports",
            of_cluster=True,
        )
        _prune_logs(place.logs_dir)
        self._name = ""
        # Ray may run an actor's own loop as another implementation, beside the main thread.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="replica", daemon=True).start()
        self._node = self._run(lambda: Node(place, NodePuller(home / WEIGHTS_DIR)))

    def launch(self, spec: bytes, epoch: int) -> bytes:
        """The status after it, as `status` gives it; a second call changes nothing.

        It may come long after it was asked for, so whether another controller leads by now is asked here too (D5).
        """
        if epoch:
            check_epoch(HeadKeyValues(), self._namespace, epoch)
        wish = msgspec.json.decode(spec, type=ReplicaSpec)
        if wish.placement.nodes > 1:
            wish = self._spanning(wish)
        self._name = wish.name
        self._run(lambda: self._node.launch(wish))
        return self.status()

    def status(self) -> bytes:
        """A ReplicaStatus as JSON, null while no engine was asked for. Its node is Ray's id of the node."""
        found = self._run(lambda: self._node.statuses({}))
        status = replace(found[0], incarnation=self._actor_id) if found else None
        return msgspec.json.encode(status)

    def stop(self, grace_s: float) -> bytes:
        self._run(lambda: self._node.stop(self._name, grace_s))
        return self.status()

    def logs(self, tail_bytes: int) -> str:
        return self._run(lambda: self._node.logs(self._name, tail_bytes))

    def _spanning(self, wish: ReplicaSpec) -> ReplicaSpec:
        """Its engine is a driver of the same cluster: it is told where that is, and the token that lets it in."""
        if self._visible is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = self._visible
        address: str = ray.get_runtime_context().gcs_address
        env = {**wish.env, "RAY_ADDRESS": address, "RAY_USAGE_STATS_ENABLED": "0"}
        access = {name: v for name, v in os.environ.items() if name.startswith("RAY_AUTH_")}
        # Ray has given this process no accelerators: the engine's executor takes them.
        resources = replace(wish.resources, gpus=0.0)
        return replace(wish, env=env, secrets={**wish.secrets, **access}, resources=resources)

    def _run(self, function: Callable[[], Result]) -> Result:
        """Call it in the loop, which alone touches the node."""
        answer: Future[Result] = Future()

        def call() -> None:
            try:
                answer.set_result(function())
            except Exception as error:  # noqa: BLE001 - raised again where it was called
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return answer.result(CALL_TIMEOUT_S)


def decode_status(text: bytes) -> ReplicaStatus | None:
    return msgspec.json.decode(text, type=ReplicaStatus | None)


def _devices(count: int) -> tuple[str, ...]:
    """The accelerators that Ray gave to this process; without any, an engine must see none."""
    if count == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return ()
    return tuple(os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))


def _prune_logs(directory: Path) -> None:
    logs = []
    with contextlib.suppress(OSError):
        logs = [(path.stat().st_mtime, path) for path in directory.glob("*.log")]
    for _, path in sorted(logs, reverse=True)[LOGS_KEPT_MAX:]:
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".1").unlink(missing_ok=True)
