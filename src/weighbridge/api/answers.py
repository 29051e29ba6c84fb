"""Answers of the management API, member by member as the hosted service sends them, with optional additions.

Members that are None are left out on the wire.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from weighbridge.accounts.model import Org
from weighbridge.endpoints.model import Endpoint
from weighbridge.registry.model import ModelVersion, SyncStatus
from weighbridge.registry.names import VersionName
from weighbridge.rollouts.model import Deployment, RolloutStatus

Vocabulary = Literal["enum", "example"]

_EXAMPLE_STATES = {RolloutStatus.DONE: "complete", RolloutStatus.ERROR: "failed"}
_EXAMPLE_SYNCS = {SyncStatus.ERROR: "failed"}


def state_word(status: RolloutStatus, vocabulary: Vocabulary) -> str:
    """The published enum's word, or the published example's (wire.md §8 A)."""
    return _EXAMPLE_STATES.get(status, status) if vocabulary == "example" else status.value


def sync_word(status: SyncStatus, vocabulary: Vocabulary) -> str:
    """As `state_word`; a finished sync is `done` in both (wire.md §8 C)."""
    return _EXAMPLE_SYNCS.get(status, status) if vocabulary == "example" else status.value


def unix_s(time: datetime) -> int:
    return int(time.timestamp())


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Problem(Answer):
    """An error: flat members, and `detail` for readers of FastAPI's style."""

    message: str
    type: str
    param: str | None
    code: str
    detail: str | list[dict[str, object]]


class ModelArchitectures(Answer):
    model_architectures: list[str]


class SyncProgress(Answer):
    step: str
    bytes_total: int
    bytes_done: int
    files_total: int
    files_done: int
    bytes_per_s: int | None = Field(
        default=None, description="Of late; absent while nothing is fetched."
    )
    eta_s: int | None = Field(default=None, description="Until the last byte, at that rate.")
    retries: int | None = Field(
        default=None, description="Requests that had to be asked again; absent where none."
    )

    @classmethod
    def of(cls, version: ModelVersion) -> Self:
        rate = None if version.status.final else version.bytes_per_s
        left = version.bytes_total - version.bytes_done
        return cls(
            step=version.step,
            bytes_total=version.bytes_total,
            bytes_done=version.bytes_done,
            files_total=version.files_total,
            files_done=version.files_done,
            bytes_per_s=None if rate is None else int(rate),
            eta_s=None if not rate else math.ceil(left / rate),
            retries=version.retries or None,
        )


class ModelVersionStatus(Answer):
    customer_s3_uri: str
    version_aliases: list[str]
    sync_status: str = Field(
        description="queued, in_progress, done, cancelled, and error (or failed, by the server's vocabulary)."
    )
    system_fingerprint_suffix: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    digest: str | None = Field(default=None, description="Names the version's bytes, once done.")
    progress: SyncProgress


class ModelVersionOperation(Answer):
    name: str
    done: bool
    response: ModelVersionStatus

    @classmethod
    def of(cls, version: ModelVersion, org: Org, vocabulary: Vocabulary) -> Self:
        return cls(
            name=version_name(version, org),
            done=version.status.final,
            response=ModelVersionStatus(
                customer_s3_uri=version.weight_uri,
                version_aliases=list(version.aliases),
                sync_status=sync_word(version.status, vocabulary),
                system_fingerprint_suffix=version.fingerprint_suffix,
                error_code=version.error_code,
                error_message=version.error_message,
                # It is recorded before the files are published: until then it names nothing.
                digest=version.manifest_digest if version.status is SyncStatus.DONE else None,
                progress=SyncProgress.of(version),
            ),
        )


def version_name(version: ModelVersion, org: Org) -> str:
    return str(VersionName(org.name, version.arch_id, version.number))


class ModelVersions(Answer):
    model_versions: list[ModelVersionOperation]


class VersionAliases(Answer):
    name: str
    version_aliases: list[str]


class DeletedVersion(Answer):
    """Both published forms of this answer at once (wire.md §8 B)."""

    name: str
    deleted: bool
    message: str


class EndpointSummary(Answer):
    endpoint_id: str
    model_arch_id: str
    created: int
    updated: int
    org_name: str


class Endpoints(Answer):
    endpoints: list[EndpointSummary]


class DeployedModel(Answer):
    id: str
    model: str
    created: int
    state: str
    version_alias: str = Field(description="The version as the caller named it: alias or number.")
    version_id: int
    rollout_status: str = Field(description="The state in the words of the published enum.")
    reason: str
    updated: int
    max_unavailable: int
    updated_replicas: int
    total_replicas: int
    error_message: str | None = None
    endpoint_id: str
    traffic_percent: int | None = Field(
        default=None, description="The share of requests of a canary that is not promoted."
    )

    @classmethod
    def of(cls, deployment: Deployment, org: Org, vocabulary: Vocabulary) -> Self:
        return cls(
            id=deployment.id,
            model=str(VersionName(org.name, deployment.arch_id, deployment.version_number)),
            created=unix_s(deployment.created_at),
            state=state_word(deployment.status, vocabulary),
            version_alias=deployment.reference,
            version_id=deployment.version_number,
            rollout_status=deployment.status.value,
            reason=deployment.reason,
            updated=unix_s(deployment.updated_at),
            max_unavailable=deployment.max_unavailable,
            updated_replicas=deployment.updated_replicas,
            total_replicas=deployment.replicas,
            error_message=deployment.error_message,
            endpoint_id=deployment.endpoint_id,
            traffic_percent=deployment.traffic_percent if deployment.canary else None,
        )


class EndpointStatus(Answer):
    name: str
    model_arch_id: str
    replicas: int = Field(description="Outside of rollouts.")
    replicas_max: int | None = Field(
        default=None, description="How far :scale may go; absent: the operator alone scales."
    )
    deployed_models: list[DeployedModel] = Field(
        description="The deployments in flight, the one that serves, then earlier ones, newest first."
    )
    managing_org_name: str
    created: int
    updated: int

    @classmethod
    def of(
        cls,
        endpoint: Endpoint,
        deployments: Sequence[Deployment],
        org: Org,
        vocabulary: Vocabulary,
    ) -> Self:
        return cls(
            name=endpoint.id,
            model_arch_id=endpoint.arch_id,
            replicas=endpoint.replicas,
            replicas_max=endpoint.replicas_max,
            deployed_models=[
                DeployedModel.of(deployment, org, vocabulary) for deployment in deployments
            ],
            managing_org_name=org.name,
            created=unix_s(endpoint.created_at),
            updated=unix_s(endpoint.updated_at),
        )


class Deploy(Answer):
    deployment_id: str
    endpoint_id: str
    org_name: str
    model_arch_id: str
    version_id: int
    created: int
    updated: int
    rollout_status: str


class DeployOperation(Answer):
    name: str
    done: bool
    response: Deploy

    @classmethod
    def of(cls, deployment: Deployment, org: Org) -> Self:
        return cls(
            name=deployment.id,
            done=deployment.status.final,
            response=Deploy(
                deployment_id=deployment.id,
                endpoint_id=deployment.endpoint_id,
                org_name=org.name,
                model_arch_id=deployment.arch_id,
                version_id=deployment.version_number,
                created=unix_s(deployment.created_at),
                updated=unix_s(deployment.updated_at),
                rollout_status=deployment.status.value,
            ),
        )
