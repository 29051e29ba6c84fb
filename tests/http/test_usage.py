"""Limits set by the operator, as gateways get them; reports and metrics of what was used."""

import csv
import io
from pathlib import Path

import pytest

from control_world import ARCH, Caller, World
from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.endpoints import service as endpoints
from weighbridge.routing.limits import UsageLimits
from weighbridge.usage.lines import event_line
from weighbridge.usage.model import UsageEvent
from weighbridge.usage.reconciler import UsageReconciler
from weighbridge.usage.spool import SpoolFile

ADMIN = "/admin/v1"
USAGE = "/management/v1/usage"


async def inference_key(operator: Caller) -> str:
    body = {"kind": "inference", "name": "x", "org_name": "my-org"}
    return str((await operator("POST", f"{ADMIN}/keys", body)).json()["id"])


async def test_a_keys_limits_reach_the_gateways_with_its_orgs_defaults(
    world: World, org: Org, operator: Caller
) -> None:
    key_id = await inference_key(operator)
    path = f"{ADMIN}/keys/{key_id}"
    first = {"limits": {"requests_minute": 60, "tokens_day": 1000}}
    assert (await operator("PATCH", path, first)).status_code == 200
    then = {"limits": {"requests_minute": None, "concurrency": 2}}
    answer = (await operator("PATCH", path, then)).json()
    given = {name: value for name, value in answer["limits"].items() if value is not None}
    assert given == {"concurrency": 2, "tokens_day": 1000}
    world.woken.clear()
    defaults = {"key_limits": {"requests_minute": 30, "tokens_day": 5}}
    answer = (await operator("PATCH", f"{ADMIN}/orgs/my-org", defaults)).json()
    assert answer["key_limits"]["requests_minute"] == 30
    assert world.woken == ["routes"]
    async with world.database.begin() as tx:
        (entry,) = await accounts.key_table(tx, world.time)
    assert entry.limits == UsageLimits(concurrency=2, requests_minute=30, tokens_day=1000)


async def test_an_endpoints_limits_change_alone_and_are_shown(
    world: World, org: Org, operator: Caller
) -> None:
    await world.create_endpoint("chat", org)
    body = {"limits": {"tokens_minute": 9000}}
    changed = (await operator("PATCH", f"{ADMIN}/endpoints/chat", body)).json()
    assert (changed["limits"]["tokens_minute"], changed["replicas"]) == (9000, 1)
    assert "routes" in world.woken
    assert (await operator("PATCH", f"{ADMIN}/endpoints/chat", {"replicas": 2})).status_code == 200
    async with world.database.begin() as tx:
        endpoint = await endpoints.get(tx, "chat", org_id=org.id)
    assert (endpoint.limits, endpoint.replicas) == (UsageLimits(tokens_minute=9000), 2)


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        ({"requests_minute": 0}, "limits.requests_minute"),
        ({"requests_minute": 1.5}, "limits.requests_minute"),
        ({"tokens_day": 10**13}, "limits.tokens_day"),
        ({"tokens_week": 5}, "limits.tokens_week"),
        (None, "limits"),
    ],
)
async def test_an_impossible_limit_is_refused(
    org: Org, operator: Caller, limits: object, param: str
) -> None:
    key_id = await inference_key(operator)
    answer = await operator("PATCH", f"{ADMIN}/keys/{key_id}", {"limits": limits})
    assert (answer.status_code, answer.json()["param"]) == (400, param)


async def test_only_keys_that_infer_have_limits(world: World, org: Org, operator: Caller) -> None:
    key, _ = await world.key(KeyKind.MANAGEMENT, org)
    body = {"limits": {"requests_day": 5}}
    answer = await operator("PATCH", f"{ADMIN}/keys/{key.id}", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_key_kind")
    assert (await operator("PATCH", f"{ADMIN}/keys/absent", body)).status_code == 404


def event(world: World, **changes: object) -> UsageEvent:
    values: dict = {
        "ended_unix_s": world.time.timestamp() - 60, "org_id": "org_my-org", "key_id": "k1",
        "endpoint_id": "chat", "version": 2, "status": 200, "prompt_tokens": 10, "cached_tokens": 4,
        "completion_tokens": 5, "estimated": False, "duration_s": 2.0, "queue_s": 0.5, "ttft_s": 0.2,
        **changes,
    }  # fmt: skip
    return UsageEvent(**values)


async def count(world: World, tmp_path: Path, *events: UsageEvent) -> None:
    file = SpoolFile(tmp_path / "spools", "a")
    file.append([event_line(one) for one in events])
    file.close()
    await UsageReconciler(world.database, world.parts.clock, tmp_path / "spools").reconcile()


async def test_an_org_sees_its_own_usage_and_the_operator_everybodys(
    world: World, org: Org, member: Caller, operator: Caller, tmp_path: Path
) -> None:
    await world.org("other")
    mine = [event(world), event(world, version=3), event(world, status=429, version=0)]
    await count(world, tmp_path, *mine, event(world, org_id="org_other"))
    report = (await member("GET", f"{USAGE}?by=total&group=endpoint")).json()
    (row,) = report["rows"]
    assert row == {
        "endpoint_id": "chat", "requests": 3, "succeeded": 2, "refused": 1, "failed": 0, "estimated": 0,
        "prompt_tokens": 30, "cached_tokens": 12, "completion_tokens": 15, "duration_s": 6.0, "queue_s": 1.5,
        "ttft_avg_s": pytest.approx(0.2), "ttft_p95_s": 0.25,
    }  # fmt: skip
    assert (report["by"], report["group"]) == ("total", ["endpoint"])
    everybody = (await operator("GET", f"{ADMIN}/usage?by=total")).json()
    assert {r["org_name"]: r["requests"] for r in everybody["rows"]} == {"my-org": 3, "other": 1}
    assert everybody["lost_events"] == 0


async def test_a_report_comes_as_csv_too(
    world: World, org: Org, member: Caller, tmp_path: Path
) -> None:
    await count(world, tmp_path, event(world), event(world, version=3))
    answer = await member("GET", f"{USAGE}?by=hour&group=version,key&format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(r["start"], r["key_id"], r["version"], r["requests"]) for r in rows] == [
        ("2026-01-11T23:00:00Z", "k1", "2", "1"),
        ("2026-01-11T23:00:00Z", "k1", "3", "1"),
    ]


async def test_a_report_is_of_the_hours_that_begin_in_its_span(
    world: World, org: Org, member: Caller, tmp_path: Path
) -> None:
    now = int(world.time.timestamp())
    await count(world, tmp_path, event(world), event(world, ended_unix_s=now - 8 * 86400))
    assert len((await member("GET", USAGE)).json()["rows"]) == 1
    wide = (await member("GET", f"{USAGE}?from={now - 9 * 86400}&to={now}")).json()
    assert len(wide["rows"]) == 2
    assert wide["to"] == now
    none = (await member("GET", f"{USAGE}?from={now}&to={now}")).json()
    assert none["rows"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("by=week", "by"),
        ("group=org", "group"),
        ("group=key,colour", "group"),
        ("format=xml", "format"),
        ("from=-1", "from"),
        ("from=99999999999999", "from"),
        ("from=20&to=10", "from"),
    ],
)
async def test_a_report_that_cannot_be_is_refused(member: Caller, query: str, param: str) -> None:
    answer = await member("GET", f"{USAGE}?{query}")
    assert (answer.status_code, answer.json()["param"]) == (400, param)


async def test_metrics_are_those_of_the_last_complete_minute(
    world: World, org: Org, tmp_path: Path
) -> None:
    await world.create_endpoint("chat", org, ARCH)
    at = world.time.timestamp()
    await count(
        world,
        tmp_path,
        event(world, ended_unix_s=at + 1),
        event(world, ended_unix_s=at + 59, duration_s=4.0),
        event(world, ended_unix_s=at + 30, status=503, version=0, prompt_tokens=0, ttft_s=None),
        event(world, ended_unix_s=at - 1),
        event(world, ended_unix_s=at + 60),
        event(world, ended_unix_s=at + 2, org_id="org_other"),
    )
    _, key = await world.key(KeyKind.INFERENCE, org)
    mine = Caller(world.client, key)
    world.pass_time(66)
    answer = await mine("GET", f"/api/v1/metrics/organizations/{org.id}")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    lines = answer.text.splitlines()
    labels = f'endpoint="chat",organization_id="{org.id}"'
    assert f"inference_endpoint_status{{{labels}}} -1" in lines
    assert f"requests_count_total{{{labels}}} 3" in lines
    assert f"requests_success_total{{{labels}}} 2" in lines
    assert f'requests_failure_total{{{labels},code="503"}} 1' in lines
    assert f"input_tokens_total{{{labels}}} 20" in lines
    assert f'e2e_latency_seconds{{{labels},percentile="p50",statistic="p50"}} 2' in lines
    assert f'ttft_seconds{{{labels},percentile="avg",statistic="avg"}} 0.2' in lines
    assert {line.rsplit(" ", 1)[1] for line in lines if line.startswith("#")} == {"gauge"}
    for _ in range(5):
        assert (await mine("GET", f"/api/v1/metrics/organizations/{org.id}")).status_code == 200
    refused = await mine("GET", f"/api/v1/metrics/organizations/{org.id}")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert refused.json()["code"] == "request_quota_exceeded"
    assert (await mine("GET", "/api/v1/metrics/organizations/org_other")).status_code == 404
