"""Reports of usage, for an org and for the operator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weighbridge.sdk.fields import Fields
from weighbridge.sdk.resources import Caller


@dataclass(frozen=True, slots=True)
class UsageRow:
    """`start` is the begin of the hour or day in unix seconds; members not grouped by are None."""

    start: int | None
    org_name: str | None
    key_id: str | None
    endpoint_id: str | None
    version: int | None
    requests: int
    succeeded: int
    refused: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "UsageRow":
        answer = Fields(body, "a row of usage")
        return cls(
            start=answer.integer_or_none("start"),
            org_name=answer.text_or_none("org_name"),
            key_id=answer.text_or_none("key_id"),
            endpoint_id=answer.text_or_none("endpoint_id"),
            version=answer.integer_or_none("version"),
            requests=answer.integer("requests"),
            succeeded=answer.count("succeeded"),
            refused=answer.count("refused"),
            failed=answer.count("failed"),
            prompt_tokens=answer.count("prompt_tokens"),
            cached_tokens=answer.count("cached_tokens"),
            completion_tokens=answer.count("completion_tokens"),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Hours that begin in [begin, end), unix seconds. `lost_events` is the operator's to see, else None."""

    begin: int
    end: int
    rows: tuple[UsageRow, ...]
    lost_events: int | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "UsageReport":
        answer = Fields(body, "a report of usage")
        return cls(
            begin=answer.integer("from"),
            end=answer.integer("to"),
            rows=tuple(UsageRow.read(row.raw) for row in answer.parts("rows", "a row of usage")),
            lost_events=answer.integer_or_none("lost_events"),
            raw=answer.raw,
        )


class Usage:
    """With a management key the org's own usage; below `client.admin` everybody's."""

    def __init__(self, caller: Caller, path: str) -> None:
        self._caller = caller
        self._path = path

    def report(
        self,
        *,
        begin: int | None = None,
        end: int | None = None,
        by: str = "day",
        group: Sequence[str] = (),
    ) -> UsageReport:
        """`by` is hour, day or total; `group` of key, endpoint, version (and org for the operator)."""
        query = {"by": by, "group": ",".join(group)}
        if begin is not None:
            query["from"] = str(begin)
        if end is not None:
            query["to"] = str(end)
        return UsageReport.read(self._caller.get(self._path, **query))
