"""Figures of one minute of an org's endpoints, and their Prometheus text (wire.md §4.3)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Double, func, select
from sqlalchemy.dialects.postgresql import array

from weighbridge.errors import LimitError
from weighbridge.storage.database import Transaction
from weighbridge.storage.history_tables import usage_requests
from weighbridge.storage.tables import endpoints, replicas

ASKED_MAX = 6
ASKED_PERIOD_S = 60.0
_STATISTICS = ("avg", "p50", "p90", "p95", "p99")
_MEASURED = ("queue_s", "duration_s", "ttft_s")
_QUANTILES = (0.5, 0.9, 0.95, 0.99)


class AskedTooOftenError(LimitError):
    code = "request_quota_exceeded"


@dataclass(slots=True)
class Allowance:
    """How often each org may ask: ASKED_MAX a minute, continuously refilled."""

    used: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, org_id: str, now_s: float) -> None:
        """Raises AskedTooOftenError; orgs are as many as the operator has made, so the table is bounded."""
        used, at_s = self.used.get(org_id, (0.0, now_s))
        used = max(0.0, used - (now_s - at_s) * ASKED_MAX / ASKED_PERIOD_S)
        if used > ASKED_MAX - 1:
            raise AskedTooOftenError("Requests per minute limit exceeded - too many requests sent.")
        self.used[org_id] = (used + 1, now_s)


@dataclass(slots=True)
class EndpointMinute:
    """`up` None: not known. Statistics are avg, p50, p90, p95, p99; empty where nothing was measured."""

    endpoint_id: str
    up: bool | None
    requests: int = 0
    failures: Mapping[int, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_s: Sequence[float] = ()
    duration_s: Sequence[float] = ()
    ttft_s: Sequence[float] = ()


async def endpoint_minutes(
    tx: Transaction, org_id: str, *, begin: datetime, end: datetime
) -> Sequence[EndpointMinute]:
    """Every endpoint of the org, by id."""
    ready = (
        select(replicas.c.id)
        .where(replicas.c.endpoint_id == endpoints.c.id, replicas.c.state == "ready")
        .exists()
    )
    known = (
        select(endpoints.c.id, ready.label("up"), endpoints.c.base_deployment_id)
        .where(endpoints.c.org_id == org_id, endpoints.c.deleted_at.is_(None))
        .order_by(endpoints.c.id)
    )
    found = {
        row.id: EndpointMinute(
            row.id, None if not row.up and not row.base_deployment_id else row.up
        )
        for row in await tx.execute(known)
    }
    row = usage_requests.c
    within = (row.org_id == org_id, row.ended_at >= begin, row.ended_at < end)
    sums = (
        select(
            row.endpoint_id,
            func.count().label("requests"),
            func.sum(row.prompt_tokens).label("prompt_tokens"),
            func.sum(row.completion_tokens).label("completion_tokens"),
            *(func.avg(row[name]).label(f"{name}_avg") for name in _MEASURED),
            *(
                func.percentile_cont(array(_QUANTILES, type_=Double))
                .within_group(row[name])
                .label(f"{name}_quantiles")
                for name in _MEASURED
            ),
        )
        .where(*within)
        .group_by(row.endpoint_id)
    )
    for line in await tx.execute(sums):
        minute = found.get(line.endpoint_id)
        if minute is not None:
            minute.requests = line.requests
            minute.prompt_tokens = int(line.prompt_tokens)
            minute.completion_tokens = int(line.completion_tokens)
            minute.queue_s = _statistics(line.queue_s_avg, line.queue_s_quantiles)
            minute.duration_s = _statistics(line.duration_s_avg, line.duration_s_quantiles)
            minute.ttft_s = _statistics(line.ttft_s_avg, line.ttft_s_quantiles)
    failed = (
        select(row.endpoint_id, row.status, func.count().label("requests"))
        .where(*within, row.status >= 400)
        .group_by(row.endpoint_id, row.status)
        .order_by(row.endpoint_id, row.status)
    )
    for line in await tx.execute(failed):
        minute = found.get(line.endpoint_id)
        if minute is not None:
            minute.failures = {**minute.failures, line.status: line.requests}
    return list(found.values())


def metrics_text(minutes: Sequence[EndpointMinute], org_id: str) -> str:
    """Every series is a gauge, also those named `_total`."""
    lines: list[str] = []
    named: dict[str, list[str]] = {}
    for minute in minutes:
        for name, labels, value in _samples(minute):
            pairs = {"endpoint": minute.endpoint_id, "organization_id": org_id, **labels}
            text = ",".join(f'{label}="{word}"' for label, word in pairs.items())
            named.setdefault(name, []).append(f"{name}{{{text}}} {value:g}")
    for name, samples in named.items():
        lines += [f"# TYPE {name} gauge", *samples]
    return "\n".join(lines) + "\n" if lines else ""


def _samples(minute: EndpointMinute) -> Iterator[tuple[str, Mapping[str, str], float]]:
    yield "inference_endpoint_status", {}, -1 if minute.up is None else int(minute.up)
    yield "requests_count_total", {}, minute.requests
    yield "requests_success_total", {}, minute.requests - sum(minute.failures.values())
    for status, requests in minute.failures.items():
        yield "requests_failure_total", {"code": str(status)}, requests
    yield "input_tokens_total", {}, minute.prompt_tokens
    yield "output_tokens_total", {}, minute.completion_tokens
    for name, values in (
        ("queue_time_seconds", minute.queue_s),
        ("e2e_latency_seconds", minute.duration_s),
        ("ttft_seconds", minute.ttft_s),
    ):
        for word, value in zip(_STATISTICS, values, strict=False):
            # Readers differ in the label they look for (wire.md §4.3).
            yield name, {"percentile": word, "statistic": word}, value


def _statistics(average: float | None, quantiles: Sequence[float] | None) -> Sequence[float]:
    return () if average is None or quantiles is None else (average, *quantiles)
