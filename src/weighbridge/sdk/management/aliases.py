"""Calls about single aliases, and their answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from weighbridge.sdk.fields import Fields
from weighbridge.sdk.resources import Caller, segment


@dataclass(frozen=True, slots=True)
class MovedAlias:
    """An alias and the versions, as resource names, that hold it now and held it before (None: none did)."""

    name: str
    model: str
    previous_model: str | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "MovedAlias":
        answer = Fields(body, "a moved alias")
        return cls(
            answer.text("name"),
            answer.text("model"),
            answer.text_or_none("previous_model"),
            answer.raw,
        )


@dataclass(frozen=True, slots=True)
class AliasChange:
    """`cause` is upload, replace, move or delete; `changed` is in unix seconds."""

    changed: int
    cause: str
    from_version: str | None
    to_version: str | None
    key_id: str | None


@dataclass(frozen=True, slots=True)
class AliasHistory:
    """One page, newest first; `next_page_token` is None on the last."""

    name: str
    changes: tuple[AliasChange, ...]
    next_page_token: str | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "AliasHistory":
        answer = Fields(body, "an alias's history")
        return cls(
            name=answer.text("name"),
            changes=tuple(
                AliasChange(
                    one.integer("changed"),
                    one.text("cause"),
                    one.text_or_none("from_version"),
                    one.text_or_none("to_version"),
                    one.text_or_none("key_id"),
                )
                for one in answer.parts("changes", "a change of an alias")
            ),
            next_page_token=answer.text_or_none("next_page_token"),
            raw=answer.raw,
        )


class AliasCalls:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def move(
        self,
        org_name: str,
        model_arch_id: str,
        alias: str,
        to: int | str,
        *,
        expected: int | str | None,
        idempotency_key: str | None = None,
    ) -> MovedAlias:
        """Point an alias at version `to` if `expected` holds it now (None: nobody does).

        ConflictError says who holds it otherwise. `idempotency_key` as in `Models.upload`.
        """
        answer = self._caller.post(
            f"{_path(org_name, model_arch_id, alias)}:move",
            {"to": to, "expected": expected},
            idempotency_key=idempotency_key,
        )
        return MovedAlias.read(answer)

    def history(
        self,
        org_name: str,
        model_arch_id: str,
        alias: str,
        *,
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> AliasHistory:
        """Where an alias pointed, newest change first; one page."""
        query = {"page_size": None if page_size is None else str(page_size)}
        query |= {"page_token": page_token}
        path = f"{_path(org_name, model_arch_id, alias)}/history"
        known = {name: value for name, value in query.items() if value is not None}
        return AliasHistory.read(self._caller.get(path, **known))


def _path(org_name: str, model_arch_id: str, alias: str) -> str:
    return (
        f"/management/v1/orgs/{segment(org_name)}/models/{segment(model_arch_id)}"
        f"/aliases/{segment(alias)}"
    )
