"""The calls about acceptance probes, and their answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weighbridge.sdk.fields import Fields
from weighbridge.sdk.resources import Caller, segment
from weighbridge.sdk.transport import Json


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Probes as the API documents them; `updated` in unix seconds, None where none were ever set."""

    probes: tuple[Json, ...]
    updated: int | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "ProbeSet":
        answer = Fields(body, "the probes")
        return cls(
            probes=tuple(one.raw for one in answer.parts("probes", "a probe")),
            updated=answer.integer_or_none("updated"),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class TrialResult:
    """`failures` are pairs of check and what was expected against what came."""

    name: str
    passed: bool
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    text: str | None
    first_token_s: float | None
    total_s: float | None

    @classmethod
    def read(cls, answer: Fields) -> "TrialResult":
        return cls(
            name=answer.text("name"),
            passed=answer.flag("passed"),
            failures=tuple(
                (one.text("check"), one.text("detail"))
                for one in answer.parts("failures", "a failure")
            ),
            notes=answer.texts("notes"),
            text=answer.text_or_none("text"),
            first_token_s=answer.number_or_none("first_token_s"),
            total_s=answer.number_or_none("total_s"),
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """How a serving replica answered; `raw` also has the tokens to store as references."""

    replica_id: str
    version_id: int
    passed: bool
    results: tuple[TrialResult, ...]
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Trial":
        answer = Fields(body, "the trial")
        return cls(
            replica_id=answer.text("replica_id"),
            version_id=answer.integer("version_id"),
            passed=answer.flag("passed"),
            results=tuple(TrialResult.read(one) for one in answer.parts("results", "a result")),
            raw=answer.raw,
        )


class Probes:
    """A set is always replaced as a whole; replicas that are started later are asked the new one."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def of_architecture(self, model_arch_id: str) -> ProbeSet:
        return ProbeSet.read(self._caller.get(_architecture(model_arch_id)))

    def of_endpoint(self, endpoint_id: str) -> ProbeSet:
        return ProbeSet.read(self._caller.get(_endpoint(endpoint_id)))

    def set_architecture(self, model_arch_id: str, probes: Sequence[Json]) -> ProbeSet:
        body: Json = {"probes": list(probes)}
        return ProbeSet.read(self._caller.put(_architecture(model_arch_id), body))

    def set_endpoint(self, endpoint_id: str, probes: Sequence[Json]) -> ProbeSet:
        body: Json = {"probes": list(probes)}
        return ProbeSet.read(self._caller.put(_endpoint(endpoint_id), body))

    def run(self, endpoint_id: str, probes: Sequence[Json] | None = None) -> Trial:
        """Ask a serving replica the endpoint's probes, or those given, and change nothing."""
        body: Json = {} if probes is None else {"probes": list(probes)}
        return Trial.read(self._caller.post(f"{_endpoint(endpoint_id)}:run", body))


def _architecture(model_arch_id: str) -> str:
    return f"/admin/v1/architectures/{segment(model_arch_id)}/probes"


def _endpoint(endpoint_id: str) -> str:
    return f"/admin/v1/endpoints/{segment(endpoint_id)}/probes"
