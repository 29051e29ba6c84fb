"""On which node of a cluster a replica is to start. Pure; Ray itself holds what is asked of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weighbridge.errors import LimitError
from weighbridge.runtimes.base import PLACED, NodeInfo, Placement, Resources, Spread
from weighbridge.runtimes.fit import can_hold, has_room, wish_words


@dataclass(frozen=True, slots=True)
class Choice:
    """`node_id` is None where any node may be taken; `hard` when only that one may."""

    node_id: str | None = None
    hard: bool = False


def choose(
    nodes: Mapping[str, NodeInfo],
    members: Sequence[str],
    resources: Resources,
    placement: Placement,
    spanned: int = 0,
) -> Choice:
    """`members` are the ids of the nodes that replicas of the group have, one for each replica.

    `spanned` counts the nodes of replicas that span several. Raises LimitError while no node is free that a strict
    spread allows, or not as many as a replica spans. Where there is merely no room, Ray keeps
    the replica waiting, so that a cluster that grows by itself sees what is missing.
    """
    if placement.nodes > 1:
        return _first_of_span(nodes, resources, placement, spanned)
    if placement.spread is Spread.NONE:
        return Choice()
    with_room = [i for i, node in nodes.items() if has_room(node, resources, placement)]
    strict = placement.spread is Spread.STRICT
    if strict:
        with_room = [node_id for node_id in with_room if node_id not in members]
    if not with_room and strict:
        raise LimitError(
            f"waits for a node without another replica of the same rollout: "
            f"{wish_words(resources, placement)}"
        )
    if not with_room:
        return Choice()
    best = min(with_room, key=lambda i: (members.count(i), -nodes[i].free.cpus, i))
    return Choice(best, hard=strict)


def _first_of_span(
    nodes: Mapping[str, NodeInfo], resources: Resources, placement: Placement, spanned: int
) -> Choice:
    """An engine takes its accelerators long after it was started, so what others are about to take counts too."""
    with_room = [i for i, node in nodes.items() if has_room(node, resources, placement)]
    places = sum(
        int(node.total.gpus // resources.gpus)
        for node in nodes.values()
        if node.alive and can_hold(node, resources, placement)
    )
    if len(with_room) < placement.nodes or places - spanned < placement.nodes:
        raise LimitError(f"waits for {wish_words(resources, placement)}")
    # Its executor wants the first accelerator on the node where it is started.
    return Choice(min(with_room, key=lambda i: (-nodes[i].free.cpus, i)), hard=True)


def waiting_words(nodes: Mapping[str, NodeInfo], resources: Resources, placement: Placement) -> str:
    """Why a replica that Ray has not placed yet waits."""
    alive = sum(1 for node in nodes.values() if node.alive)
    if any(has_room(node, resources, placement) for node in nodes.values()):
        return PLACED
    wanted = wish_words(resources, placement)
    return f"waits for {wanted}; {alive} nodes have no room for it now"
