"""The answer of a forced end of draining."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from weighbridge.sdk.fields import Fields


@dataclass(frozen=True, slots=True)
class DrainingReplica:
    """`requests` are in flight now, None where nobody counts them; `deadline` is unix seconds."""

    replica_id: str
    version_id: int
    requests: int | None
    deadline: int


@dataclass(frozen=True, slots=True)
class ForcedDrains:
    """The replicas that drain and when what is left of them is cut; `message` says it in a sentence."""

    replicas: tuple[DrainingReplica, ...]
    message: str
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "ForcedDrains":
        answer = Fields(body, "the drains")
        return cls(
            replicas=tuple(
                DrainingReplica(
                    one.text("replica_id"),
                    one.integer("version_id"),
                    one.integer_or_none("requests"),
                    one.integer("deadline"),
                )
                for one in answer.parts("replicas", "a replica")
            ),
            message=answer.text("message"),
            raw=answer.raw,
        )
