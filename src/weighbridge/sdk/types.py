"""Answers of the management API as values; `raw` keeps the members a class does not name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from weighbridge.sdk.errors import AnswerError, ClientError
from weighbridge.sdk.fields import Fields

SUCCEEDED = frozenset({"done", "complete"})
"""The listed word and the one of the published example (wire.md §8 A); servers use either."""

FAILED = frozenset({"error", "failed", "cancelled", "rolled_back"})


@dataclass(frozen=True, slots=True)
class VersionName:
    """`orgs/<org>/models/<architecture>/versions/<number or alias>`."""

    org_name: str
    model_arch_id: str
    version: str

    @classmethod
    def parse(cls, name: str) -> "VersionName":
        match name.split("/"):
            case ["orgs", org, "models", arch, "versions", version] if org and arch and version:
                return cls(org, arch, version)
        raise ClientError(
            f"{name!r} is not a model version; one reads orgs/<org>/models/<architecture>/versions/<version>.",
            code="invalid_name",
        )

    def __str__(self) -> str:
        return f"orgs/{self.org_name}/models/{self.model_arch_id}/versions/{self.version}"


@dataclass(frozen=True, slots=True)
class SyncProgress:
    step: str
    bytes_total: int
    bytes_done: int
    files_total: int
    files_done: int
    bytes_per_s: int | None = None
    eta_s: int | None = None
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model version and its weight sync. `done` alone does not mean it can serve: see `succeeded`."""

    name: str
    done: bool
    customer_s3_uri: str
    version_aliases: tuple[str, ...]
    sync_status: str
    system_fingerprint_suffix: str | None
    digest: str | None
    error_code: str | None
    error_message: str | None
    progress: SyncProgress | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @property
    def version_id(self) -> int:
        version = VersionName.parse(self.name).version
        if not version.isdecimal():
            raise AnswerError(f"{self.name!r} does not end in a version number.")
        return int(version)

    @property
    def succeeded(self) -> bool:
        return self.done and self.sync_status in SUCCEEDED

    @property
    def failed(self) -> bool:
        return self.done and self.sync_status not in SUCCEEDED

    @classmethod
    def read(cls, body: object) -> "ModelVersion":
        operation = Fields(body, "a model version")
        response = operation.part("response")
        progress = response.part_or_none("progress")
        return cls(
            name=operation.text("name"),
            done=operation.flag("done"),
            customer_s3_uri=response.text("customer_s3_uri"),
            version_aliases=response.texts("version_aliases"),
            sync_status=response.text("sync_status"),
            system_fingerprint_suffix=response.text_or_none("system_fingerprint_suffix"),
            digest=response.text_or_none("digest"),
            error_code=response.text_or_none("error_code"),
            error_message=response.text_or_none("error_message"),
            progress=_progress(progress) if progress is not None else None,
            raw=operation.raw,
        )


def _progress(body: Fields) -> SyncProgress:
    return SyncProgress(
        step=body.text_or_none("step") or "",
        bytes_total=body.count("bytes_total"),
        bytes_done=body.count("bytes_done"),
        files_total=body.count("files_total"),
        files_done=body.count("files_done"),
        bytes_per_s=body.integer_or_none("bytes_per_s"),
        eta_s=body.integer_or_none("eta_s"),
        retries=body.count("retries"),
    )


@dataclass(frozen=True, slots=True)
class Aliases:
    name: str
    version_aliases: tuple[str, ...]
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Aliases":
        answer = Fields(body, "the aliases")
        return cls(answer.text("name"), answer.texts("version_aliases"), answer.raw)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version asked to serve an endpoint, and how far its rollout has come."""

    id: str
    endpoint_id: str | None
    model: str | None
    version_alias: str | None
    state: str
    reason: str
    error_message: str | None
    created: int
    updated: int | None
    max_unavailable: int | None
    updated_replicas: int | None
    total_replicas: int | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @property
    def version(self) -> str:
        """The version's number as it is written in `model`."""
        return VersionName.parse(self.model).version if self.model else "?"

    @property
    def final(self) -> bool:
        return self.state in SUCCEEDED or self.state in FAILED

    @property
    def succeeded(self) -> bool:
        return self.state in SUCCEEDED

    @property
    def failed(self) -> bool:
        return self.state in FAILED

    @classmethod
    def read(cls, body: object) -> "Deployment":
        """A deployed model of an endpoint, or the answer to a call about one deployment."""
        answer = Fields(body, "a deployment")
        if "response" in answer.raw:
            return cls._read_operation(answer)
        return cls._of(answer, deployment_id=answer.text("id"), model=answer.text("model"))

    @classmethod
    def _read_operation(cls, operation: Fields) -> "Deployment":
        # An operation's response names the parts of the model apart.
        answer = operation.part("response")
        name = VersionName(
            answer.text("org_name"), answer.text("model_arch_id"), str(answer.integer("version_id"))
        )
        return cls._of(
            answer, deployment_id=answer.text("deployment_id"), model=str(name), raw=operation.raw
        )

    @classmethod
    def _of(
        cls,
        answer: Fields,
        *,
        deployment_id: str,
        model: str,
        raw: Mapping[str, object] | None = None,
    ) -> "Deployment":
        # `rollout_status` always has the listed words; `state` may have the example's.
        state = answer.text_or_none("rollout_status") or answer.text("state")
        return cls(
            id=deployment_id,
            endpoint_id=answer.text_or_none("endpoint_id"),
            model=model,
            version_alias=answer.text_or_none("version_alias"),
            state=state,
            reason=answer.text_or_none("reason") or "",
            error_message=answer.text_or_none("error_message"),
            created=answer.integer("created"),
            updated=answer.integer_or_none("updated"),
            max_unavailable=answer.integer_or_none("max_unavailable"),
            updated_replicas=answer.integer_or_none("updated_replicas"),
            total_replicas=answer.integer_or_none("total_replicas"),
            raw=raw if raw is not None else answer.raw,
        )


@dataclass(frozen=True, slots=True)
class EndpointSummary:
    endpoint_id: str
    model_arch_id: str
    org_name: str
    created: int
    updated: int
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "EndpointSummary":
        answer = Fields(body, "an endpoint")
        return cls(
            answer.text("endpoint_id"),
            answer.text("model_arch_id"),
            answer.text("org_name"),
            answer.integer("created"),
            answer.integer("updated"),
            answer.raw,
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint with its deployments: the one in flight, the one that serves, then history."""

    name: str
    model_arch_id: str
    managing_org_name: str | None
    deployed_models: tuple[Deployment, ...]
    created: int
    updated: int
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Endpoint":
        answer = Fields(body, "an endpoint")
        return cls(
            name=answer.text("name"),
            model_arch_id=answer.text("model_arch_id"),
            managing_org_name=answer.text_or_none("managing_org_name"),
            deployed_models=tuple(
                Deployment.read(item.raw)
                for item in answer.parts("deployed_models", "a deployment")
            ),
            created=answer.integer("created"),
            updated=answer.integer("updated"),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class Scaling:
    """`applies` is now, with_deployment or after_deployment; `message` says it in a sentence."""

    replicas: int
    previous_replicas: int
    applies: str
    message: str
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Scaling":
        answer = Fields(body, "a change of scale")
        return cls(
            answer.integer("replicas"),
            answer.integer("previous_replicas"),
            answer.text("applies"),
            answer.text("message"),
            answer.raw,
        )


@dataclass(frozen=True, slots=True)
class AccessStep:
    """One probe of the S3 doctor; `ok` with a `code` is a warning. `goes_into` names the policy for `statement`."""

    name: str
    ok: bool
    code: str | None
    message: str
    statement: Mapping[str, object] | None
    goes_into: str | None


@dataclass(frozen=True, slots=True)
class LookAlike:
    code: str
    message: str
    suggestion: str | None


@dataclass(frozen=True, slots=True)
class Problem:
    code: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class AccessReport:
    """What the S3 doctor found. `problems` is None where no architecture was named or the headers were not read."""

    ok: bool
    steps: tuple[AccessStep, ...]
    look_alikes: tuple[LookAlike, ...]
    problems: tuple[Problem, ...] | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "AccessReport":
        answer = Fields(body, "a report of the S3 doctor")
        verdict = answer.part_or_none("verdict")
        return cls(
            ok=answer.flag("ok"),
            steps=tuple(_access_step(step) for step in answer.parts("steps", "a step")),
            look_alikes=tuple(
                LookAlike(one.text("code"), one.text("message"), one.text_or_none("suggestion"))
                for one in answer.parts("look_alikes", "a look-alike")
            ),
            problems=None
            if verdict is None
            else tuple(
                Problem(one.text("code"), one.text("message"), one.count("count"))
                for one in verdict.parts("problems", "a problem")
            ),
            raw=answer.raw,
        )


def _access_step(body: Fields) -> AccessStep:
    statement = body.part_or_none("statement")
    return AccessStep(
        name=body.text("name"),
        ok=body.flag("ok"),
        code=body.text_or_none("code"),
        message=body.text("message"),
        statement=None if statement is None else statement.raw,
        goes_into=body.text_or_none("goes_into"),
    )


@dataclass(frozen=True, slots=True)
class TensorChange:
    """`relative_change` is None where it was not measured."""

    name: str
    change: str
    relative_change: float | None


@dataclass(frozen=True, slots=True)
class VersionsDiff:
    """`differing` of `tensors` differ; `changes` are the largest of them."""

    summary: str
    tensors: int
    differing: int
    changes: tuple[TensorChange, ...]
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "VersionsDiff":
        answer = Fields(body, "a difference of versions")
        return cls(
            summary=answer.text("summary"),
            tensors=answer.integer("tensors"),
            differing=answer.integer("differing"),
            changes=tuple(
                TensorChange(
                    one.text("name"), one.text("change"), one.number_or_none("relative_change")
                )
                for one in answer.parts("changes", "a changed tensor")
            ),
            raw=answer.raw,
        )
