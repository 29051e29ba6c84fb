"""The border to Ray, which has no types that we could rely on; every call here blocks."""

import platform
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import ray
import ray.exceptions
from ray._private import state as ray_state
from ray._raylet import GcsClient
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from weighbridge.errors import UnavailableError
from weighbridge.runtimes.base import NodeInfo, ReplicaSpec, Resources
from weighbridge.runtimes.fit import needs
from weighbridge.runtimes.ray.actor import ReplicaActor
from weighbridge.runtimes.ray.fence.epochs import HeadKeyValues, raise_epoch
from weighbridge.runtimes.ray.placement import Choice

# Any: handles and futures of a library without types.
Actor = Any

ACTOR_CALLS_PARALLEL = 4
OWN_RESOURCES = re.compile(r"node:|object_store_memory|CPU$|GPU$|memory$|bundle|.*_group_")
OWN_LABELS = "ray.io/"
PENDING_STATES = frozenset({"DEPENDENCIES_UNREADY", "PENDING_CREATION"})
VERSION_MIN = (2, 54)
"""Earlier ones let any web page that an operator visits end jobs through the dashboard (CVE-2026-27482)."""
KNOCK_S = 5.0
"""A head that is there answers within a tenth of a second whether it knows the token."""
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to a cluster; names are those of one namespace, `node_id` is Ray's of the node it goes through."""

    namespace: str
    node_id: str

    @classmethod
    def connect(cls, address: str, namespace: str, node_ip: str | None) -> Self:
        """Raises UnavailableError with what to do; may block for long when nobody is there."""
        check_version(ray.__version__)
        knock(address)
        placed = {} if node_ip is None else {"_node_ip_address": node_ip}
        try:
            ray.init(
                address=address,
                namespace=namespace,
                log_to_driver=False,
                logging_level="error",
                **placed,
            )
        except RuntimeError as error:
            if "ersion mismatch" in str(error):
                raise _mismatch(address, str(error)) from error
            raise _unreachable(address, error) from error
        except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
            raise _unreachable(address, error) from error
        return cls(namespace, ray.get_runtime_context().get_node_id())

    def raise_epoch(self, epoch: int) -> int:
        """Note under which lease its caller leads; the highest epoch that anybody has noted."""
        return raise_epoch(HeadKeyValues(), self.namespace, epoch)

    def names(self) -> frozenset[str]:
        """Of every actor that has not ended, those that wait for a place among them."""
        return frozenset(ray.util.list_named_actors())

    def actor(self, name: str) -> Actor | None:
        """None when it has ended."""
        try:
            return ray.get_actor(name, namespace=self.namespace)
        except ValueError:
            return None

    def create(self, spec: ReplicaSpec, choice: Choice) -> Actor:
        """The actor of this name, made if it is not there; idle."""
        kind = ray.remote(ReplicaActor).options(
            name=spec.name,
            namespace=self.namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=ACTOR_CALLS_PARALLEL,
            **place_options(spec, choice),
        )
        return kind.remote()

    def kill(self, actor: Actor) -> None:
        ray.kill(actor, no_restart=True)

    def node_of(self, actor: Actor) -> str | None:
        """Ray's id of its node, empty where none is known; None while Ray has not found a place for it yet."""
        row = ray_state.actors(incarnation_of(actor))
        if row.get("State") in PENDING_STATES:
            return None
        return str(row.get("Address", {}).get("NodeID", ""))

    def nodes(self) -> Mapping[str, NodeInfo]:
        """By Ray's id; a dead one only where no living one has its name."""
        free = ray_state.available_resources_per_node()
        rows = ray.nodes()
        alive = {row["NodeName"] for row in rows if row["Alive"]}
        return {
            row["NodeID"]: NodeInfo(
                name=row["NodeName"],
                alive=row["Alive"],
                total=_resources(row["Resources"]),
                free=_resources(free.get(row["NodeID"], {})),
                labels={n: v for n, v in row["Labels"].items() if not n.startswith(OWN_LABELS)},
            )
            for row in rows
            if row["Alive"] or row["NodeName"] not in alive
        }


def place_options(spec: ReplicaSpec, choice: Choice) -> dict[str, object]:
    """What an actor's place must have: amounts, labels, and a node that it must or should be on."""
    amounts = dict(needs(spec.resources))
    options: dict[str, object] = {
        "num_cpus": amounts.pop("CPU", 0),
        "num_gpus": amounts.pop("GPU", 0),
    }
    if spec.placement.nodes > 1:
        options["num_gpus"] = 0  # its engine's executor takes them, or they would count twice
    if memory_bytes := amounts.pop("memory", 0):
        options["memory"] = memory_bytes
    if spec.placement.node_labels:
        options["label_selector"] = dict(spec.placement.node_labels)
    if choice.node_id is not None:
        # Without the spill a full node is waited for while another one is free.
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
            choice.node_id, soft=not choice.hard, _spill_on_unavailable=not choice.hard
        )
    return {**options, "resources": amounts}


def check_version(version: str) -> None:
    """Raises UnavailableError for a Ray that is too old to be safe."""
    numbers = tuple(int(word) for word in re.findall(r"\d+", version)[:2])
    if numbers < VERSION_MIN:
        least = ".".join(map(str, VERSION_MIN))
        raise UnavailableError(
            f"The driver has Ray {version}; {least} or newer is needed, on every node. "
            "Install it with pip install 'weighbridge[ray]'.",
            code="ray_version",
        )


def knock(address: str) -> None:
    """Raises UnavailableError when the head refuses the token; `ray.init` would try it again for half a minute.

    Whatever else keeps the head from answering is left for `ray.init` to find.
    """
    refused: list[Exception] = []

    def ask() -> None:
        try:
            GcsClient(address=address)
        except ray.exceptions.AuthenticationError as error:
            refused.append(error)
        except ray.exceptions.RayError:
            return  # a head that is away, or starts

    asking = threading.Thread(target=ask, name="knock", daemon=True)
    asking.start()
    asking.join(KNOCK_S)
    if refused:
        raise UnavailableError(
            f"The Ray cluster at {address} cannot be joined: it refuses the driver's token. Set "
            "WEIGHBRIDGE_RAY_AUTH_TOKEN to the one that its nodes were started with (RAY_AUTH_TOKEN).",
            code="ray_token_refused",
        ) from refused[0]


def incarnation_of(actor: Actor) -> str:
    """Ray's id of the actor: new with each start, for none is ever restarted."""
    return str(actor._actor_id.hex())  # noqa: SLF001 - it has no public name


def _resources(amounts: Mapping[str, float]) -> Resources:
    custom = {n: float(v) for n, v in amounts.items() if not OWN_RESOURCES.match(n)}
    return Resources(
        cpus=float(amounts.get("CPU", 0.0)),
        gpus=float(amounts.get("GPU", 0.0)),
        memory_bytes=int(amounts.get("memory", 0)),
        custom=custom,
    )


def _mismatch(address: str, text: str) -> UnavailableError:
    theirs = VERSIONS.search(text)
    cluster = f"Ray {theirs[1]} and Python {theirs[2]}" if theirs else "other versions"
    return UnavailableError(
        f"The Ray cluster at {address} runs {cluster}; the driver has Ray {ray.__version__} and "
        f"Python {platform.python_version()}, and they must be equal. Install the same here, or set "
        "WEIGHBRIDGE_RAY_PYTHON to an interpreter that has them.",
        code="ray_version_mismatch",
    )


def _unreachable(address: str, error: Exception) -> UnavailableError:
    first = str(error).strip().splitlines()[:1]
    return UnavailableError(
        f"The Ray cluster at {address} cannot be joined: {first[0] if first else repr(error)} "
        "Is its head up, does a Ray node run on this machine, and is the token the cluster's?",
        code="ray_unreachable",
    )
