"""The management route of the S3 doctor."""

import asyncio
from functools import partial
from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import Answer
from weighbridge.api.deps import Control, Management
from weighbridge.api.versions import own_org
from weighbridge.errors import UnavailableError
from weighbridge.ingest.base_model import read_wish
from weighbridge.ingest.doctor.examine import Doctor
from weighbridge.ingest.doctor.model import LookAlike, Report, Step, UploadVerdict
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.registry import service

router = APIRouter(
    prefix="/management/v1/orgs/{org_name}",
    tags=["models"],
    route_class=ManagementRoute,
    dependencies=[BEARER],
)

URI_CHARACTERS_MAX = 2_048


class ExplainAccessRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    weight_uri: str = Field(max_length=URI_CHARACTERS_MAX)
    model_arch_id: str | None = Field(
        default=None, description="Also hold the folder's headers against this architecture."
    )


class AccessStep(Answer):
    name: str = Field(
        description="uri, bucket, role, external_id, region, list, head, first_byte, kms, version_read, time."
    )
    ok: bool
    code: str | None = Field(default=None, description="With `ok` it is a warning.")
    message: str
    statement: dict[str, object] | None = Field(
        default=None, description="The policy statement that mends it, ready to paste."
    )
    goes_into: str | None = Field(default=None, description="The policy it belongs into.")

    @classmethod
    def of(cls, step: Step) -> Self:
        return cls(
            name=step.name,
            ok=step.ok,
            code=step.code,
            message=step.message,
            statement=None if step.statement is None else dict(step.statement),
            goes_into=step.goes_into,
        )


class AccessLookAlike(Answer):
    code: str
    message: str
    suggestion: str | None = Field(default=None, description="The weight_uri that was meant.")

    @classmethod
    def of(cls, found: LookAlike) -> Self:
        return cls(code=found.code, message=found.message, suggestion=found.suggestion)


class VerdictProblem(Answer):
    code: str
    message: str
    count: int


class AccessVerdict(Answer):
    model_arch_id: str
    ok: bool
    problems: list[VerdictProblem]
    files: int
    tensors: int
    bytes_total: int

    @classmethod
    def of(cls, verdict: UploadVerdict) -> Self:
        return cls(
            model_arch_id=verdict.model_arch_id,
            ok=not verdict.problems,
            problems=[
                VerdictProblem(code=one.code, message=one.message, count=one.count)
                for one in verdict.problems
            ],
            files=verdict.files,
            tensors=verdict.tensors,
            bytes_total=verdict.size_bytes,
        )


class AccessReport(Answer):
    ok: bool
    steps: list[AccessStep]
    look_alikes: list[AccessLookAlike]
    verdict: AccessVerdict | None = None

    @classmethod
    def of(cls, report: Report) -> Self:
        return cls(
            ok=report.ok,
            steps=[AccessStep.of(step) for step in report.steps],
            look_alikes=[AccessLookAlike.of(found) for found in report.look_alikes],
            verdict=None if report.verdict is None else AccessVerdict.of(report.verdict),
        )


@router.post("/models:explainAccess", operation_id="explain_access")
async def explain_access(
    org_name: str, body: ExplainAccessRequest, caller: Management, control: Control
) -> AccessReport:
    """Probe each step of reading a folder, and say what to change where one fails. Nothing is uploaded."""
    org = own_org(caller, org_name)
    wish = None
    with control.doctor_calls.turn(org.id, control.clock.monotonic()):
        if body.model_arch_id is not None:
            async with control.database.begin() as tx:
                found = await service.visible_architecture(tx, org.id, body.model_arch_id)
            read = partial(read_wish, control.store, found.id, found.base_digest, found.tensors)
            try:
                _, wish = await asyncio.to_thread(read)
            except SourceError as error:
                raise UnavailableError(error.message, code="base_missing") from error
        doctor = Doctor(control.database, control.s3, control.clock.monotonic)
        return AccessReport.of(await doctor.examine(org, body.weight_uri, wish))
