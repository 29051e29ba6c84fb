"""What an onlooker sees of a rollout: when each replica came to each state, and how many served."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from weighbridge.sdk import Client, ClientError

PERIOD_S = 0.04


@dataclass(slots=True)
class Life:
    """Of one replica: the monotonic time at which each state was first seen."""

    deployment_id: str
    seen_s: dict[str, float] = field(default_factory=dict)

    def between(self, first: str, last: str) -> float:
        """Seconds from one state to another; from the next one that was seen where a look missed it."""
        order = ("pending", "starting", "warming", "ready", "draining", "stopping", "stopped")

        def at(state: str) -> float:
            later = order[order.index(state) :]
            return next((self.seen_s[one] for one in later if one in self.seen_s), 0.0)

        return max(0.0, at(last) - at(first))


class Watch:
    """Looks at the endpoint's replicas all the time, in a thread of its own; a server that is away is waited for."""

    def __init__(self, client: Client, endpoint_id: str) -> None:
        self.lives: dict[str, Life] = {}
        self.ready_min: int | None = None
        self._client = client
        self._endpoint_id = endpoint_id
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def newcomers(self, deployment_id: str) -> Mapping[str, Life]:
        return {
            name: life
            for name, life in list(self.lives.items())
            if life.deployment_id == deployment_id
        }

    def _run(self) -> None:
        while not self._over.wait(PERIOD_S):
            with suppress(ClientError):
                self._look()

    def _look(self) -> None:
        found = self._client.admin.replicas.list(self._endpoint_id)
        now_s = time.monotonic()
        for replica in found:
            life = self.lives.setdefault(replica.id, Life(replica.deployment_id))
            life.seen_s.setdefault(replica.state, now_s)
        ready = sum(replica.state == "ready" for replica in found)
        self.ready_min = ready if self.ready_min is None else min(ready, self.ready_min)


def ideal_s(
    newcomers: Mapping[str, Life],
    leavers: Mapping[str, Life],
    *,
    min_ready_s: float,
    bake_s: float,
) -> float:
    """The shortest a rollout with one spare slot can take, from the starts and drains as they were.

    One replica after the other: start, be ready for `min_ready_s`; then the old one drains and stops to give its
    slot back. The last drain ends beside the watch at the end, which lasts `bake_s`.
    """
    starts = sum(life.between("pending", "ready") for life in newcomers.values())
    ends = sorted(leavers.values(), key=lambda life: life.seen_s.get("draining", 0.0))
    drains = sum(life.between("draining", "stopped") for life in ends[:-1])
    return starts + len(newcomers) * min_ready_s + drains + bake_s
