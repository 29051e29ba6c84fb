"""Management routes of model architectures, model versions and aliases."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from weighbridge.accounts.model import Org
from weighbridge.accounts.service import org_not_found
from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import (
    DeletedVersion,
    ModelArchitectures,
    ModelVersionOperation,
    ModelVersions,
    VersionAliases,
    version_name,
)
from weighbridge.api.deps import AtMostOnce, Control, Management, Member
from weighbridge.registry import service
from weighbridge.registry.names import ALIASES_MAX, parse_ref

router = APIRouter(
    prefix="/management/v1/orgs/{org_name}",
    tags=["models"],
    route_class=ManagementRoute,
    dependencies=[BEARER],
)

VERSIONS = "/models/{model_arch_id}/versions"
VERSION = VERSIONS + "/{version_id}"

Aliases = Annotated[list[str], Field(max_length=ALIASES_MAX)]


class UploadModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    weight_uri: str = Field(description="S3 prefix that holds the weights: s3://bucket/prefix.")
    version_aliases: Aliases = []
    system_fingerprint_suffix: str | None = None


class UploadRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model_arch_id: str
    model: UploadModel


class AliasesRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version_aliases: Aliases


def own_org(caller: Member, org_name: str) -> Org:
    """The caller's org, when the path names it; another org looks like none (T2)."""
    if caller.org.name != org_name:
        raise org_not_found(org_name)
    return caller.org


@router.get(
    "/models",
    operation_id="get_model_archs_by_org_route_management_v1_orgs__org_name__models_get",
)
async def list_architectures(
    org_name: str, caller: Management, control: Control
) -> ModelArchitectures:
    """List the model architectures of which the organization may upload versions."""
    org = own_org(caller, org_name)
    async with control.database.begin() as tx:
        architectures = await service.architectures(tx, org.id)
    return ModelArchitectures(
        model_architectures=[architecture.id for architecture in architectures]
    )


@router.post(
    "/models:upload",
    operation_id="upload_new_model_version_route_management_v1_orgs__org_name__models_upload_post",
)
async def upload(
    org_name: str, body: UploadRequest, caller: Management, control: Control, once: AtMostOnce
) -> ModelVersionOperation:
    """Register a new model version and start copying its weights from S3."""
    org = own_org(caller, org_name)
    async with control.database.begin() as tx:
        if (before := await once.answer(tx, ModelVersionOperation)) is not None:
            return before
        version = await service.upload(
            tx,
            org,
            body.model_arch_id,
            body.model.weight_uri,
            body.model.version_aliases,
            body.model.system_fingerprint_suffix,
            version_id=control.clock.new_uuid(),
            now=control.clock.now(),
            key_id=caller.key.id,
        )
        answer = ModelVersionOperation.of(version, org, control.settings.state_vocabulary)
        await once.keep(tx, answer)
    control.wake("ingest")
    return answer


@router.get(
    VERSIONS,
    operation_id="get_all_model_versions_route_management_v1_orgs__org_name__models__model_arch_id__versions_get",
)
async def list_versions(
    org_name: str, model_arch_id: str, caller: Management, control: Control
) -> ModelVersions:
    """List every version uploaded for one architecture, by number."""
    org = own_org(caller, org_name)
    async with control.database.begin() as tx:
        versions = await service.versions(tx, org.id, model_arch_id)
    vocabulary = control.settings.state_vocabulary
    return ModelVersions(
        model_versions=[ModelVersionOperation.of(version, org, vocabulary) for version in versions]
    )


@router.get(VERSION, operation_id="retrieve_model_version_status")
async def version_status(
    org_name: str, model_arch_id: str, version_id: str, caller: Management, control: Control
) -> ModelVersionOperation:
    """Retrieve a version's details and the status of its weight sync."""
    org = own_org(caller, org_name)
    ref = parse_ref(version_id)
    async with control.database.begin() as tx:
        version = await service.resolve(tx, org.id, model_arch_id, ref)
    return ModelVersionOperation.of(version, org, control.settings.state_vocabulary)


@router.patch(VERSION, operation_id="update_model_version_aliases")
async def update_aliases(
    org_name: str,
    model_arch_id: str,
    version_id: str,
    body: AliasesRequest,
    *,
    caller: Management,
    control: Control,
) -> VersionAliases:
    """Replace a version's aliases by the given ones; one held by another version is refused."""
    org = own_org(caller, org_name)
    ref = parse_ref(version_id)
    async with control.database.begin() as tx:
        version = await service.set_aliases(
            tx,
            org.id,
            model_arch_id,
            ref,
            body.version_aliases,
            now=control.clock.now(),
            key_id=caller.key.id,
        )
    return VersionAliases(name=version_name(version, org), version_aliases=list(version.aliases))


@router.delete(
    VERSION,
    operation_id=(
        "delete_model_version_route_management_v1_orgs__org_name__models__model_arch_id__versions__version_id__delete"
    ),
)
async def delete_version(
    org_name: str, model_arch_id: str, version_id: str, caller: Management, control: Control
) -> DeletedVersion:
    """Delete a version and its stored weights; refused while an endpoint needs it."""
    org = own_org(caller, org_name)
    ref = parse_ref(version_id)
    async with control.database.begin() as tx:
        version = await service.delete(
            tx, org.id, model_arch_id, ref, now=control.clock.now(), key_id=caller.key.id
        )
    control.wake("ingest")
    name = version_name(version, org)
    return DeletedVersion(name=name, deleted=True, message=f"Model version {name} deleted")
