"""Whether a replica can run on given nodes, and what to say when it cannot. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence

from weighbridge.runtimes.base import NodeInfo, Placement, Resources

SLOTS = "slots"
"""The resource of a node that counts engine processes; such a node shares its cores freely."""
GIB = 1024**3
SLACK = 1e-9
"""Amounts come as floats."""


def obstacle(nodes: Sequence[NodeInfo], resources: Resources, placement: Placement) -> str | None:
    """Why no living node could ever run such a replica, were all else gone; None when one could.

    Nothing is known, and so nothing is said, where no node lives.
    """
    alive = [node for node in nodes if node.alive]
    holding = sum(1 for node in alive if can_hold(node, resources, placement))
    if not alive or holding >= placement.nodes:
        return None
    wanted = f"a replica needs {wish_words(resources, placement)}"
    if placement.nodes > 1 and any(SLOTS in node.total.custom for node in alive):
        return f"{wanted}; this server runs replicas on its own machine, not on a Ray cluster"
    labelled = [node for node in alive if carries(node, placement)]
    if not labelled:
        return f"{wanted}; none of {len(alive)} nodes carries these labels"
    offers = "; ".join(
        f"{node.name}: {amount_words(_offer(node, resources))}" for node in labelled[:3]
    )
    more = f" and {len(labelled) - 3} nodes more" if len(labelled) > 3 else ""
    offering = "no node offers" if holding == 0 else f"only {holding} of them can offer"
    return f"{wanted}; {offering} that ({offers}{more})"


def can_hold(node: NodeInfo, resources: Resources, placement: Placement) -> bool:
    return carries(node, placement) and _covers(node.total, resources)


def has_room(node: NodeInfo, resources: Resources, placement: Placement) -> bool:
    return node.alive and carries(node, placement) and _covers(node.free, resources)


def carries(node: NodeInfo, placement: Placement) -> bool:
    return placement.node_labels.items() <= node.labels.items()


def wish_words(resources: Resources, placement: Placement) -> str:
    words = amount_words(needs(resources))
    labels = [f"{name}={value}" for name, value in sorted(placement.node_labels.items())]
    if placement.nodes > 1:
        words = f"{words} on each of {placement.nodes} nodes"
    return f"{words} on a node with {', '.join(labels)}" if labels else words


def needs(resources: Resources) -> Mapping[str, float]:
    """By name; what is not needed is left out."""
    amounts = {
        "CPU": resources.cpus,
        "GPU": math.ceil(resources.gpus) if resources.gpus > 1 else resources.gpus,
        "memory": float(resources.memory_bytes),
        **resources.custom,
    }
    return {name: amount for name, amount in amounts.items() if amount > 0}


def amount_words(amounts: Mapping[str, float]) -> str:
    return ", ".join(_words(name, amount) for name, amount in amounts.items()) or "nothing"


def _covers(offer: Resources, wish: Resources) -> bool:
    has = _amounts(offer)
    if SLOTS in offer.custom:
        if has[SLOTS] < 1:
            return False
        has |= {"CPU": math.inf, "memory": math.inf}
    return all(has.get(name, 0.0) + SLACK >= amount for name, amount in needs(wish).items())


def _amounts(resources: Resources) -> dict[str, float]:
    return {
        "CPU": resources.cpus,
        "GPU": resources.gpus,
        "memory": float(resources.memory_bytes),
        **resources.custom,
    }


def _offer(node: NodeInfo, resources: Resources) -> Mapping[str, float]:
    has = _amounts(node.total)
    names: Iterable[str] = needs(resources)
    return {name: has.get(name, 0.0) for name in names}


def _words(name: str, amount: float) -> str:
    return f"{amount / GIB:.1f} GiB memory" if name == "memory" else f"{amount:g} {name}"
