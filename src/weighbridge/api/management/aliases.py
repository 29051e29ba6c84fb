"""Management routes of single aliases: move one with compare-and-swap, and its history."""

import re
from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from weighbridge.accounts.model import Org
from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import Answer, unix_s, version_name
from weighbridge.api.deps import AtMostOnce, Control, Management
from weighbridge.api.management.pages import PAGE_SIZE_DEFAULT, PageSize, PageToken, bad_token
from weighbridge.api.versions import own_org
from weighbridge.registry import alias_service
from weighbridge.registry.model import AliasChange
from weighbridge.registry.names import VersionName, parse_ref

router = APIRouter(
    prefix="/management/v1/orgs/{org_name}/models/{model_arch_id}/aliases/{alias}",
    tags=["models"],
    route_class=ManagementRoute,
    dependencies=[BEARER],
)

SEQUENCE = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
Reference = StrictInt | StrictStr


class MoveRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    to: Reference = Field(description="The version that gets the alias: number or alias.")
    expected: Reference | None = Field(
        description="The version that holds it now, number or alias; null: none does."
    )


class MovedAlias(Answer):
    name: str
    model: str = Field(description="The version that holds the alias now.")
    previous_model: str | None = Field(
        default=None, description="The version that held it; absent where none did."
    )


class AliasChangeAnswer(Answer):
    changed: int
    cause: str = Field(description="The call: upload, replace (PATCH), move or delete.")
    from_version: str | None = Field(default=None, description="Absent: no version held it.")
    to_version: str | None = Field(default=None, description="Absent: no version holds it since.")
    key_id: str | None = Field(default=None, description="The key that asked for it.")

    @classmethod
    def of(cls, change: AliasChange, org: Org, arch_id: str) -> Self:
        def name(number: int | None) -> str | None:
            return None if number is None else str(VersionName(org.name, arch_id, number))

        return cls(
            changed=unix_s(change.changed_at),
            cause=change.cause.value,
            from_version=name(change.from_number),
            to_version=name(change.to_number),
            key_id=change.key_id,
        )


class AliasHistory(Answer):
    name: str
    changes: list[AliasChangeAnswer] = Field(description="Newest first.")
    next_page_token: str | None = Field(default=None, description="Absent on the last page.")


def _alias_name(org: Org, arch_id: str, alias: str) -> str:
    return f"orgs/{org.name}/models/{arch_id}/aliases/{alias}"


def _ref(value: int | str, param: str) -> int | str:
    return parse_ref(str(value), param=param)


@router.post(":move", operation_id="move_alias")
async def move(
    org_name: str,
    model_arch_id: str,
    alias: str,
    body: MoveRequest,
    *,
    caller: Management,
    control: Control,
    once: AtMostOnce,
) -> MovedAlias:
    """Move an alias to a version if the expected version holds it; 409 says which one does otherwise."""
    org = own_org(caller, org_name)
    to = _ref(body.to, "to")
    expected = None if body.expected is None else _ref(body.expected, "expected")
    async with control.database.begin() as tx:
        if (before := await once.answer(tx, MovedAlias)) is not None:
            return before
        holder, target = await alias_service.move(
            tx,
            org.id,
            model_arch_id,
            alias,
            to,
            expected=expected,
            now=control.clock.now(),
            key_id=caller.key.id,
        )
        answer = MovedAlias(
            name=_alias_name(org, target.arch_id, alias),
            model=version_name(target, org),
            previous_model=None if holder is None else version_name(holder, org),
        )
        await once.keep(tx, answer)
    return answer


@router.get("/history", operation_id="list_alias_history")
async def alias_history(
    org_name: str,
    model_arch_id: str,
    alias: str,
    *,
    caller: Management,
    control: Control,
    page_size: PageSize = PAGE_SIZE_DEFAULT,
    page_token: PageToken = None,
) -> AliasHistory:
    """List who pointed an alias where and when, newest first; deleted versions stay in it."""
    org = own_org(caller, org_name)
    if page_token is not None and not SEQUENCE.fullmatch(page_token):
        raise bad_token()
    async with control.database.begin() as tx:
        found = await alias_service.history(
            tx,
            org.id,
            model_arch_id,
            alias,
            before=None if page_token is None else int(page_token),
            limit=page_size + 1,
        )
    changes = found[:page_size]
    return AliasHistory(
        name=_alias_name(org, model_arch_id, alias),
        changes=[AliasChangeAnswer.of(change, org, model_arch_id) for change in changes],
        next_page_token=str(changes[-1].sequence) if len(found) > page_size else None,
    )
