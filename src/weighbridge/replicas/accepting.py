"""Exams of warm replicas by their acceptance probes: begun here, judged in `acceptance`."""

from collections.abc import Iterable
from dataclasses import dataclass

from weighbridge.acceptance import store as acceptance_store
from weighbridge.acceptance.asking import Target
from weighbridge.acceptance.examiner import Exam, Examiner
from weighbridge.acceptance.model import Verdict
from weighbridge.acceptance.store import Serving
from weighbridge.engines.base import served_name
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.replicas.store import Watched
from weighbridge.routing.tokens import replica_token
from weighbridge.storage.database import Database


@dataclass(frozen=True, slots=True)
class Accepting:
    """Without an examiner no replica that has probes is ever let in."""

    database: Database
    examiner: Examiner | None
    pepper: bytes

    def verdict(self, one: Watched) -> tuple[Verdict | None, bool]:
        """What its exam has shown, and whether it must be waited for."""
        if not one.examined or one.replica.state is not ReplicaState.WARMING:
            return None, False
        if self.examiner is None:
            return None, True
        found = self.examiner.verdict(one.replica.id, one.replica.incarnation)
        return found, found is None

    async def begin(self, one: Watched, replica: Replica, url: str) -> None:
        """Begin its exam once it is warm; nothing when it has none, or one is begun or over."""
        warm = replica.state is ReplicaState.WARMING and replica.warm_at is not None
        if not one.examined or not warm or self.examiner is None or replica.incarnation is None:
            return
        if not self.examiner.free(replica.id, replica.incarnation):
            return
        async with self.database.begin() as tx:
            probes = await acceptance_store.pinned(tx, replica.id)
            base = await acceptance_store.serving_base(tx, replica.endpoint_id, but=replica.id)
        exam = Exam(probes, None if base is None else serving_target(base, self.pepper))
        target = Target(
            url, served_name(replica.id, replica.digest), replica_token(self.pepper, replica.id)
        )
        self.examiner.begin(replica.id, replica.incarnation, target, exam)

    def keep(self, replicas: Iterable[Replica]) -> None:
        """Drop what is known of others: who no longer warms up needs no exam and no turn."""
        if self.examiner is not None:
            self.examiner.keep(r.id for r in replicas if r.state is ReplicaState.WARMING)

    async def close(self) -> None:
        if self.examiner is not None:
            await self.examiner.close()


def serving_target(one: Serving, pepper: bytes) -> Target:
    """How to ask a replica that serves."""
    return Target(
        one.url, served_name(one.replica_id, one.digest), replica_token(pepper, one.replica_id)
    )
