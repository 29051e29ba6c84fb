"""Rendezvous hashing with bounded loads: the replica that requests of one key go to while it is not overloaded.

Each replica has a weight for each key, and the heaviest is the key's (Thaler and Ravishankar, "Using name-based
mappings to increase hit rates", 1998). When a replica leaves, only its own keys move. No replica gets
more than a bound times the mean load; what is beyond it goes on in the order of weights (Mirrokni,
Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2018, arXiv:1608.01350).
"""

from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b

from weighbridge.routing.model import ReplicaRoute

LOAD_BOUND = 1.25
"""Most load of a replica in means: the smaller, the more even, and the more often a key leaves its replica."""


def pick_by_key(
    replicas: Sequence[ReplicaRoute],
    in_flight: Callable[[int], int],
    key: str,
    excluded: Collection[str],
    bound: float = LOAD_BOUND,
) -> ReplicaRoute | None:
    """The heaviest replica for `key` with room; one always has room, so None only when all are excluded.

    Also the same in every worker: nothing but the loads and the replicas' ids decides.
    """
    candidates = [replica for replica in replicas if replica.replica_id not in excluded]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    loads = {replica.replica_id: in_flight(replica.slot) for replica in candidates}
    # This request is one of the load.
    most = bound * (sum(loads.values()) + 1) / len(candidates)
    hashed = key.encode("utf-8", "surrogatepass")
    ranked = sorted(candidates, key=lambda replica: _weight(hashed, replica.replica_id))
    room = (replica for replica in ranked if loads[replica.replica_id] < most)
    return next(room)


def _weight(key: bytes, replica_id: str) -> bytes:
    """Smaller is heavier. Hashed together, so that the order of replicas is another for each key."""
    return blake2b(b"%b\0%b" % (replica_id.encode(), key), digest_size=8).digest()
