"""The operator's calls: orgs, keys, architectures, endpoints, and what runs."""

import os
from pathlib import Path

import pytest

from control_world import ARCH, Caller, World, write_base_model
from weighbridge.accounts.model import Org
from weighbridge.routing.acks import WorkerColumn, open_acks
from weighbridge.runtimes.base import ReplicaStatus, RuntimeState
from weighbridge.storage.tables import replicas

ADMIN = "/admin/v1"
CREATED = 1768176000
SERVERS_GATE = dict.fromkeys(
    (
        "requests_min", "errors_share", "errors_ratio", "empty_share", "empty_ratio", "ttft_min_s", "ttft_ratio",
        "ttft_max_s",
    )
)  # fmt: skip
NO_LIMITS = {
    "concurrency": None, "requests_minute": None, "requests_hour": None, "requests_day": None,
    "tokens_minute": None, "tokens_hour": None, "tokens_day": None,
}  # fmt: skip
KEY = {"kind": "inference", "name": "x", "org_name": "my-org"}
CHAT = {"endpoint_id": "chat", "org_name": "my-org", "model_arch_id": ARCH}


async def create_key(operator: Caller, **body: object) -> dict[str, object]:
    answer = await operator("POST", f"{ADMIN}/keys", {"name": "ci", **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_an_org_is_created_with_an_external_id_of_its_own(
    world: World, operator: Caller
) -> None:
    made = (await operator("POST", f"{ADMIN}/orgs", {"org_name": "my-org"})).json()
    assert made == {
        "id": made["id"], "org_name": "my-org", "s3_external_id": made["s3_external_id"],
        "s3_role_arn": None, "created": CREATED, "key_limits": NO_LIMITS,
    }  # fmt: skip
    assert made["id"].startswith("org_")
    assert len(made["s3_external_id"]) >= 43
    other = (await operator("POST", f"{ADMIN}/orgs", {"org_name": "another"})).json()
    assert other["s3_external_id"] != made["s3_external_id"]
    assert (await operator("GET", f"{ADMIN}/orgs")).json() == {"orgs": [other, made]}
    arn = "arn:aws:iam::123456789012:role/weights-reader"
    changed = (await operator("PATCH", f"{ADMIN}/orgs/my-org", {"s3_role_arn": arn})).json()
    assert changed == {**made, "s3_role_arn": arn}
    assert (await operator("GET", f"{ADMIN}/orgs/my-org")).json() == changed
    assert set(world.woken) == {"routes"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/orgs", {"org_name": "my-org"}, 409, "org_name"),
        ("POST", "/orgs", {"org_name": "My_Org"}, 400, "org_name"),
        ("POST", "/orgs", {"org_name": "x", "s3_external_id": "mine"}, 400, "s3_external_id"),
        ("PATCH", "/orgs/my-org", {"s3_role_arn": "x"}, 400, "s3_role_arn"),
        ("PATCH", "/orgs/my-org", {}, 400, "s3_role_arn"),
        ("PATCH", "/orgs/absent", {"s3_role_arn": None}, 404, "org_name"),
        ("POST", "/keys", {"kind": "root", "name": "x"}, 400, "kind"),
        ("POST", "/keys", {"kind": "admin", "name": "x", "org_name": "my-org"}, 400, "org_name"),
        ("POST", "/keys", {"kind": "inference", "name": "x"}, 400, "org_name"),
        ("POST", "/keys", {"kind": "inference", "name": "x", "org_name": "absent"}, 404, "org_name"),
        ("POST", "/keys", {"kind": "inference", "name": "a\x00b", "org_name": "my-org"}, 400, "name"),
        ("POST", "/keys", {"kind": "inference", "name": "", "org_name": "my-org"}, 400, "name"),
        ("POST", "/keys", {**KEY, "expires_in_s": 0}, 400, "expires_in_s"),
        ("POST", "/keys", {**KEY, "expires_in_s": 10**30}, 400, "expires_in_s"),
        ("POST", "/keys", {**KEY, "secret": "s"}, 400, "secret"),
        ("GET", "/keys?org_name=absent", None, 404, "org_name"),
        ("DELETE", "/keys/absent", None, 404, None),
        ("POST", "/endpoints", {**CHAT, "model_arch_id": "absent"}, 404, "model_arch_id"),
        ("POST", "/endpoints", {**CHAT, "org_name": "absent"}, 404, "org_name"),
        ("POST", "/endpoints", {**CHAT, "endpoint_id": "E"}, 400, "endpoint_id"),
        ("POST", "/endpoints", {**CHAT, "max_surge": 0}, 400, "max_surge"),
        ("POST", "/endpoints", {**CHAT, "replicas": True}, 400, "replicas"),
        ("POST", "/endpoints", {**CHAT, "max_unavailable": 1}, 400, "max_unavailable"),
        ("PATCH", "/endpoints/absent", {}, 404, "endpoint_id"),
        ("GET", "/replicas?endpoint_id=absent", None, 404, "endpoint_id"),
        ("GET", "/replicas/absent/logs", None, 404, None),
        ("GET", "/replicas/absent/logs?tail_bytes=0", None, 400, "tail_bytes"),
        ("GET", "/architectures/absent", None, 404, "model_arch_id"),
        ("DELETE", "/architectures/absent", None, 404, "model_arch_id"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_with_the_member_at_fault(
    *,
    world: World,
    org: Org,
    operator: Caller,
    method: str,
    path: str,
    body: object,
    status: int,
    param: str | None,
) -> None:
    answer = await operator(method, ADMIN + path, body)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"message", "type", "param", "code", "detail"}
    assert answer.json()["param"] == param
    assert world.woken == []


@pytest.mark.parametrize(
    ("kind", "word"), [("management", "mgmt"), ("inference", "inf"), ("both", "both")]
)
async def test_a_keys_text_is_shown_once_and_opens_until_it_is_revoked(
    world: World, org: Org, operator: Caller, kind: str, word: str
) -> None:
    made = await create_key(operator, kind=kind, org_name="my-org", expires_in_s=3600)
    text = str(made.pop("key"))
    assert text.startswith(f"wb_{word}_{made['id']}_")
    assert made == {
        "id": made["id"], "kind": kind, "org_name": "my-org", "name": "ci", "prefix": f"wb_{word}_{made['id']}",
        "created": CREATED, "expires": CREATED + 3600, "revoked": None, "limits": NO_LIMITS,
    }  # fmt: skip
    listed = await operator("GET", f"{ADMIN}/keys?org_name=my-org")
    assert listed.json() == {"keys": [made]}
    assert text not in (await operator("GET", f"{ADMIN}/keys")).text
    opens = kind != "inference"
    mine = Caller(world.client, text)
    assert (await mine("GET", "/management/v1/orgs/my-org/models")).status_code == (
        200 if opens else 401
    )
    world.woken.clear()
    world.pass_time(5)
    revoked = (await operator("DELETE", f"{ADMIN}/keys/{made['id']}")).json()
    assert revoked == {**made, "revoked": CREATED + 5}
    assert world.woken == ["routes"]
    assert (await mine("GET", "/management/v1/orgs/my-org/models")).status_code == 401


async def test_the_last_admin_key_stays(world: World, operator: Caller) -> None:
    (key,) = (await operator("GET", f"{ADMIN}/keys")).json()["keys"]
    assert (await operator("DELETE", f"{ADMIN}/keys/{key['id']}")).status_code == 409
    made = await create_key(operator, kind="admin")
    assert made["org_name"] is None
    assert (await operator("DELETE", f"{ADMIN}/keys/{key['id']}")).status_code == 200
    assert (await operator("GET", f"{ADMIN}/keys")).status_code == 401


async def test_an_architecture_is_registered_from_a_base_model(
    world: World,
    org: Org,
    operator: Caller,
    member: Caller,
    tmp_path: Path,
) -> None:
    source = str(write_base_model(tmp_path / "base"))
    body = {
        "model_arch_id": "tiny-1.0",
        "source": source,
        "engine": {"context_tokens": 512, "env": {"A": "1"}, "health_path": "/healthz"},
        "org_names": ["my-org"],
    }
    answer = await operator("POST", f"{ADMIN}/architectures", body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert made == {
        "model_arch_id": "tiny-1.0", "source": source, "digest": made["digest"], "tensors": 1, "parameters": 6,
        "engine": {
            "engine": "llamacpp", "context_tokens": 512, "slots": 4, "threads": 1, "gpus": 0,
            "nodes": 1, "tensor_parallel": None, "pipeline_parallel": None,
            "dtype": None, "extra_args": [], "env": {"A": "1"}, "command": [], "health_path": "/healthz",
            "start_timeout_s": 600.0, "memory_bytes": 0, "resources": {}, "node_labels": {},
            "spread": "none",
        },
        "org_names": ["my-org"], "created": CREATED, "updated": CREATED,
    }  # fmt: skip
    kept = world.parts.store.version_dir(made["digest"])
    assert (kept / "config.json").read_bytes() == (tmp_path / "base" / "config.json").read_bytes()
    assert not (kept / "model.safetensors").exists()
    listed = (await operator("GET", f"{ADMIN}/architectures")).json()["architectures"]
    assert [item["model_arch_id"] for item in listed] == [ARCH, "tiny-1.0"]
    assert (await operator("GET", f"{ADMIN}/architectures/tiny-1.0")).json() == made
    assert "tiny-1.0" in (await member("GET", "/management/v1/orgs/my-org/models")).text
    world.pass_time(9)
    again = await operator("POST", f"{ADMIN}/architectures", body)
    assert again.json() == made
    write_base_model(tmp_path / "base", rows=3)
    other = await operator("POST", f"{ADMIN}/architectures", body)
    assert (other.status_code, other.json()["code"]) == (409, "model_architecture_exists")
    assert (await operator("DELETE", f"{ADMIN}/architectures/tiny-1.0")).json() == made
    assert (await operator("POST", f"{ADMIN}/architectures", body)).json()["tensors"] == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_arch_id": "../x"}, "invalid_model_arch_id"),
        ({"source": ""}, "wrong_api_format"),
        ({"source": "a\x00b"}, "wrong_api_format"),
        ({"engine": {"engine": "absent"}}, "unknown_engine"),
        ({"engine": {"extra_args": ["--refuse"]}}, "invalid_engine_args"),
        ({"engine": {"slots": 0}}, "wrong_api_format"),
        ({"engine": {"context_tokens": "512"}}, "wrong_api_format"),
        ({"engine": {"env": {"A=B": "1"}}}, "wrong_api_format"),
        ({"engine": {"env": {"A": "x\x00"}}}, "wrong_api_format"),
        ({"engine": {"start_timeout_s": 0}}, "wrong_api_format"),
        ({"engine": {"health_path": "health"}}, "wrong_api_format"),
        ({"engine": {"trust_remote_code": True}}, "wrong_api_format"),
        ({"engine": {"engine": "vllm", "nodes": 2, "gpus": 8}}, "invalid_request"),
    ],
)
async def test_a_base_model_or_engine_that_cannot_be_used_is_refused(
    operator: Caller,
    tmp_path: Path,
    change: dict[str, object],
    code: str,
) -> None:
    body = {"model_arch_id": "tiny", "source": str(write_base_model(tmp_path / "base")), **change}
    answer = await operator("POST", f"{ADMIN}/architectures", body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert "tiny" not in (await operator("GET", f"{ADMIN}/architectures")).text


async def test_a_base_model_that_is_not_there_is_refused(operator: Caller, tmp_path: Path) -> None:
    body = {"model_arch_id": "tiny", "source": str(tmp_path / "absent")}
    answer = await operator("POST", f"{ADMIN}/architectures", body)
    assert answer.status_code == 400, answer.text


async def test_an_endpoint_lives_from_creation_to_deletion(
    world: World, org: Org, operator: Caller
) -> None:
    body = {
        "endpoint_id": "my-org-llama",
        "org_name": "my-org",
        "model_arch_id": ARCH,
        "replicas": 3,
    }
    made = (await operator("POST", f"{ADMIN}/endpoints", body)).json()
    assert made == {
        **body, "max_unavailable": 0, "max_surge": 1, "created": CREATED, "updated": CREATED, "serving": None,
        "gateway": {"hold_s": None, "affinity": "off", "public": False}, "gate": SERVERS_GATE,
        "limits": NO_LIMITS, "replicas_max": None, "allow_downtime": False, "queue_policy": "fifo",
    }  # fmt: skip
    assert world.woken == ["rollouts", "replicas"]
    world.pass_time(1)
    changed = (
        await operator("PATCH", f"{ADMIN}/endpoints/my-org-llama", {"max_unavailable": 2})
    ).json()
    assert changed == {**made, "max_unavailable": 2, "updated": CREATED + 1}
    refused = await operator("PATCH", f"{ADMIN}/endpoints/my-org-llama", {"replicas": 2})
    assert (refused.status_code, refused.json()["param"]) == (400, "max_unavailable")
    assert (await operator("GET", f"{ADMIN}/endpoints")).json() == {"endpoints": [changed]}
    assert (await operator("GET", f"{ADMIN}/endpoints/my-org-llama")).json() == changed
    assert (await operator("DELETE", f"{ADMIN}/endpoints/my-org-llama")).status_code == 200
    assert (await operator("GET", f"{ADMIN}/endpoints/my-org-llama")).status_code == 404
    assert (await operator("POST", f"{ADMIN}/endpoints", body)).status_code == 409


async def test_an_endpoint_s_gateway_options_change_one_by_one(
    world: World, org: Org, operator: Caller
) -> None:
    await world.create_endpoint("chat", org)
    path = f"{ADMIN}/endpoints/chat"
    world.woken.clear()
    changed = await operator("PATCH", path, {"gateway": {"hold_s": 7.5, "public": True}})
    assert changed.json()["gateway"] == {"hold_s": 7.5, "affinity": "off", "public": True}
    assert "routes" in world.woken
    changed = await operator("PATCH", path, {"gateway": {"affinity": "prefix"}})
    assert changed.json()["gateway"] == {"hold_s": 7.5, "affinity": "prefix", "public": True}
    changed = await operator("PATCH", path, {"gateway": {"hold_s": None}, "replicas": 2})
    assert changed.json()["gateway"] == {"hold_s": None, "affinity": "prefix", "public": True}
    assert (await operator("GET", path)).json() == changed.json()
    for wrong in ({"hold_s": -1}, {"hold_s": 601}, {"affinity": "sticky"}, {"other": 1}):
        refused = await operator("PATCH", path, {"gateway": wrong})
        assert refused.status_code == 400, refused.text


async def test_an_endpoint_s_limits_of_the_gate_change_one_by_one(
    world: World, org: Org, operator: Caller
) -> None:
    await world.create_endpoint("chat", org)
    path = f"{ADMIN}/endpoints/chat"
    gate = {"requests_min": 20, "errors_share": 0.1, "ttft_max_s": 5.5}
    changed = await operator("PATCH", path, {"gate": gate})
    assert changed.json()["gate"] == {**SERVERS_GATE, **gate}
    changed = await operator("PATCH", path, {"gate": {"errors_share": None, "empty_ratio": 0}})
    kept = {"requests_min": 20, "empty_ratio": 0.0, "ttft_max_s": 5.5}
    assert changed.json()["gate"] == {**SERVERS_GATE, **kept}
    assert (await operator("GET", path)).json() == changed.json()
    wrong = (
        {"requests_min": -1}, {"requests_min": 5_001}, {"errors_share": 1.1}, {"ttft_ratio": 0.5}, {"ttft_max_s": 0},
        {"ttft_min_s": "1"}, {"other": 1},
    )  # fmt: skip
    for one in wrong:
        assert (await operator("PATCH", path, {"gate": one})).status_code == 400, one


async def put_replica(world: World, org: Org, operator: Caller, member: Caller) -> str:
    await world.create_endpoint("chat", org)
    body = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://bucket/weights"}}
    await member("POST", "/management/v1/orgs/my-org/models:upload", body)
    version = await world.end_sync(org, 1)
    name = {"model": f"orgs/my-org/models/{ARCH}/versions/1"}
    deployed = await member("POST", "/management/v1/endpoints/chat:deployModel", name)
    deployment_id = str(deployed.json()["name"])
    async with world.database.begin() as tx:
        await tx.execute(
            replicas.insert().values(
                id="r1",
                endpoint_id="chat",
                deployment_id=deployment_id,
                version_id=version.id,
                version_number=1,
                digest="d",
                fingerprint="f",
                state="ready",
                slot=3,
                created_at=world.time,
                state_since=world.time,
                ready_at=world.time,
            )
        )
    return deployment_id


async def test_replicas_are_shown_with_their_node_and_requests_in_flight(
    world: World, org: Org, operator: Caller, member: Caller, tmp_path: Path
) -> None:
    deployment_id = await put_replica(world, org, operator, member)
    world.runtime.replicas.append(ReplicaStatus("r1", RuntimeState.RUNNING, {}, "i1", "node-1"))
    world.runtime.output["r1"] = "line one\nline two\n"
    memory = open_acks(tmp_path / "acks")
    worker = WorkerColumn(memory, 0, os.getpid())
    worker.acknowledge(7, 9)
    worker.counts[3] = 2
    shown = {
        "id": "r1", "endpoint_id": "chat", "deployment_id": deployment_id, "version_id": 1, "state": "ready",
        "reason": "", "node": "node-1", "in_flight": 2, "created": CREATED, "ready": CREATED,
    }  # fmt: skip
    for path in ("/replicas", "/replicas?endpoint_id=chat"):
        assert (await operator("GET", ADMIN + path)).json() == {"replicas": [shown]}
    logs = await operator("GET", f"{ADMIN}/replicas/r1/logs?tail_bytes=9")
    assert logs.json() == {"id": "r1", "logs": "line two\n"}
    status = (await operator("GET", f"{ADMIN}/status")).json()
    assert status["gateways"] == [
        {"host": "", "pid": os.getpid(), "routes_generation": 7, "keys_generation": 9}
    ]
    assert (status["database"], status["runtime"]) == ("ok", "ok")
    nodes = (await operator("GET", f"{ADMIN}/nodes")).json()["nodes"]
    assert [(node["name"], node["alive"], node["free"]["cpus"]) for node in nodes] == [
        ("node-1", True, 1.0)
    ]
    worker.close()


async def test_while_the_runtime_is_away_the_rest_is_still_answered(
    world: World, org: Org, operator: Caller, member: Caller
) -> None:
    await put_replica(world, org, operator, member)
    world.runtime.away = True
    (shown,) = (await operator("GET", f"{ADMIN}/replicas")).json()["replicas"]
    assert shown["node"] is None
    assert (await operator("GET", f"{ADMIN}/status")).json()["runtime"] == "unavailable"
    for path in ("/nodes", "/replicas/r1/logs"):
        answer = await operator("GET", ADMIN + path)
        assert (answer.status_code, answer.json()["code"]) == (503, "runtime_unavailable")
        assert "retry-after" in answer.headers
