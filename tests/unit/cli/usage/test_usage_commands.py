"""Commands of limits and usage: what they ask of the server and what they print."""

import csv
import io

import pytest

LIMITS = {
    "concurrency": None, "requests_minute": 60, "requests_hour": None, "requests_day": None,
    "tokens_minute": None, "tokens_hour": None, "tokens_day": None,
}  # fmt: skip
KEY = {
    "id": "k1", "kind": "inference", "org_name": "acme", "name": "ci", "prefix": "wb_inf_k1",
    "created": 1, "expires": None, "revoked": None, "limits": LIMITS,
}  # fmt: skip
ROW = {
    "start": 1768176000, "key_id": "k1", "endpoint_id": "chat", "version": 2, "requests": 3, "succeeded": 2,
    "refused": 1, "failed": 0, "prompt_tokens": 30, "cached_tokens": 12, "completion_tokens": 15,
}  # fmt: skip
REPORT = {"from": 1, "to": 2, "by": "day", "group": [], "rows": [ROW]}


def test_a_key_s_limits_are_set_and_taken_away(server, weighbridge):
    server.on("PATCH", "/admin/v1/keys/k1", KEY)
    done = weighbridge("key", "limit", "k1", "--requests-minute", "60", "--tokens-day", "0")
    assert done.code == 0, done.err
    assert server.last[3] == {"limits": {"requests_minute": 60, "tokens_day": None}}
    assert "requests per minute" in done.out
    assert "60" in done.out
    assert weighbridge("key", "limit", "k1").code == 2


def test_limits_of_an_endpoint_and_of_an_org_s_keys(server, weighbridge):
    shape = {
        "endpoint_id": "chat", "org_name": "acme", "model_arch_id": "a", "replicas": 1, "max_unavailable": 0,
        "max_surge": 1, "limits": LIMITS, "created": 1, "updated": 1, "serving": None,
    }  # fmt: skip
    server.on("PATCH", "/admin/v1/endpoints/chat", shape)
    assert weighbridge("endpoint", "limit", "chat", "--concurrency", "4").code == 0
    assert server.last[3] == {"limits": {"concurrency": 4}}
    org = {
        "id": "org_a", "org_name": "acme", "s3_external_id": "x", "s3_role_arn": None, "created": 1,
        "key_limits": LIMITS,
    }  # fmt: skip
    server.on("PATCH", "/admin/v1/orgs/acme", org)
    assert weighbridge("org", "limit-keys", "acme", "--tokens-minute", "9").code == 0
    assert server.last[3] == {"key_limits": {"tokens_minute": 9}}


def test_gateway_options_of_an_endpoint(server, weighbridge):
    shape = {
        "endpoint_id": "chat", "org_name": "acme", "model_arch_id": "a", "replicas": 1, "max_unavailable": 0,
        "max_surge": 1, "limits": LIMITS, "created": 1, "updated": 1, "serving": None,
        "gateway": {"hold_s": 8, "affinity": "session", "public": True},
    }  # fmt: skip
    server.on("PATCH", "/admin/v1/endpoints/chat", shape)
    done = weighbridge("endpoint", "gateway", "chat", "--hold-s", "8", "--affinity", "session")
    assert done.code == 0, done.err
    assert server.last[3] == {"gateway": {"hold_s": 8.0, "affinity": "session"}}
    assert "8 s" in done.out
    assert weighbridge("endpoint", "gateway", "chat", "--hold-s", "auto", "--private").code == 0
    assert server.last[3] == {"gateway": {"hold_s": None, "public": False}}
    assert weighbridge("endpoint", "gateway", "chat").code == 2
    assert weighbridge("endpoint", "gateway", "chat", "--hold-s", "soon").code == 2


def test_limits_of_the_gate_of_an_endpoint(server, weighbridge):
    shape = {
        "endpoint_id": "chat", "org_name": "acme", "model_arch_id": "a", "replicas": 1, "max_unavailable": 0,
        "max_surge": 1, "limits": LIMITS, "created": 1, "updated": 1, "serving": None,
        "gate": {"requests_min": 20, "errors_share": None},
    }  # fmt: skip
    server.on("PATCH", "/admin/v1/endpoints/chat", shape)
    done = weighbridge("endpoint", "gate", "chat", "--requests-min", "20", "--errors-share", "auto")
    assert done.code == 0, done.err
    assert server.last[3] == {"gate": {"requests_min": 20, "errors_share": None}}
    lines = [line.split() for line in done.out.splitlines()]
    assert ["requests_min", "20"] in lines
    assert ["errors_share", "auto"] in lines
    server.on("GET", "/admin/v1/endpoints/chat", shape)
    assert weighbridge("endpoint", "gate", "chat").code == 0
    assert weighbridge("endpoint", "gate", "chat", "--ttft-max-s", "soon").code == 2


def test_usage_is_a_table_a_csv_or_the_server_s_document(server, weighbridge):
    path = "/management/v1/usage?by=day&group=endpoint"
    server.on("GET", path, REPORT)
    shown = weighbridge("usage")
    assert shown.code == 0, shown.err
    assert "2026-01-12" in shown.out
    assert "chat" in shown.out
    assert weighbridge("usage", "--json").document == REPORT
    rows = list(csv.DictReader(io.StringIO(weighbridge("usage", "--csv").out)))
    assert [(row["start"], row["requests"]) for row in rows] == [("2026-01-12T00:00:00+00:00", "3")]
    assert weighbridge("usage", "--csv", "--json").code == 2


@pytest.mark.parametrize("begin", ["2026-01-12", "2026-01-12T00:00", "1768176000"])
def test_a_time_is_a_date_or_unix_seconds(server, weighbridge, begin):
    path = "/admin/v1/usage?by=total&group=org%2Ckey&from=1768176000"
    server.on("GET", path, {**REPORT, "lost_events": 4})
    done = weighbridge("usage", "--all-orgs", "--by", "total", "--group", "key", "--from", begin)
    assert done.code == 0, done.err
    assert "4 requests were never counted" in done.err
    assert weighbridge("usage", "--from", "yesterday").code == 2
