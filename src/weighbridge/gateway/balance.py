"""Choose the replica that answers a request. Pure: counts and the random value are arguments."""

from collections.abc import Callable, Collection, Sequence

from weighbridge.routing.model import ReplicaRoute, TrafficShare


def groups(
    replicas: Sequence[ReplicaRoute], share: TrafficShare, random_value: float
) -> tuple[Sequence[ReplicaRoute], Sequence[ReplicaRoute]]:
    """The replicas that a request is meant for by the share, and the others, who answer when none of those can.

    `random_value` in [0, 1) decides, and is not the one that breaks ties.
    """
    mine = [replica for replica in replicas if replica.version == share.version]
    rest = [replica for replica in replicas if replica.version != share.version]
    return (mine, rest) if random_value * 100 < share.percent else (rest, mine)


def pick(
    replicas: Sequence[ReplicaRoute],
    in_flight: Callable[[int], int],
    random_value: float,
    excluded: Collection[str],
) -> ReplicaRoute | None:
    """The least loaded replica whose id is not excluded; a tie is broken by `random_value` in [0, 1).

    `in_flight(slot)` is the requests on that slot over all workers of this host. Without a shared count a
    choice among ties must be random, or every worker would pick the same first one.
    """
    least = 0
    ties: list[ReplicaRoute] = []
    for replica in replicas:
        if replica.replica_id in excluded:
            continue
        load = in_flight(replica.slot)
        if not ties or load < least:
            least, ties = load, [replica]
        elif load == least:
            ties.append(replica)
    return ties[min(int(random_value * len(ties)), len(ties) - 1)] if ties else None
