"""Commands ask the right call with the right key, and print one of two forms."""

import json

import pytest

NAME = "orgs/acme/models/llama/versions/2"
UUID = "550e8400-e29b-41d4-a716-446655440000"
SHAPE = {
    "endpoint_id": "chat",
    "org_name": "acme",
    "model_arch_id": "llama",
    "replicas": 2,
    "max_unavailable": 0,
    "max_surge": 1,
    "created": 1736700000,
    "updated": 1736700000,
    "serving": None,
}
ORG = {
    "id": "org_1",
    "org_name": "acme",
    "s3_external_id": "ext-1",
    "s3_role_arn": None,
    "created": 1736700000,
}
KEY = {
    "id": "k1",
    "kind": "both",
    "org_name": "acme",
    "name": "ci",
    "prefix": "wb_both_k1",
    "created": 1736700000,
    "expires": None,
    "revoked": None,
}


def version(status="done", done=True, **members):
    response = {"customer_s3_uri": "s3://b/p", "version_aliases": ["prod"], "sync_status": status}
    return {"name": NAME, "done": done, "response": {**response, **members}}


def deployed(state, **members):
    return {"id": UUID, "model": NAME, "created": 1736700000, "state": state, **members}


def endpoint(*models):
    return {
        "name": "chat",
        "model_arch_id": "llama",
        "deployed_models": list(models),
        "managing_org_name": "acme",
        "created": 1,
        "updated": 2,
    }


OPERATION = {
    "name": UUID,
    "done": False,
    "response": {
        "deployment_id": UUID,
        "endpoint_id": "chat",
        "org_name": "acme",
        "model_arch_id": "llama",
        "version_id": 2,
        "created": 1,
        "updated": 1,
        "rollout_status": "not_started",
    },
}


def test_upload_answers_at_once(server, weighbridge):
    server.on("POST", "/management/v1/orgs/acme/models:upload", version("queued", done=False))
    run = weighbridge("upload", "s3://b/p", "--arch", "llama", "--alias", "prod", "--alias", "x")
    assert run.code == 0
    assert NAME in run.out
    assert "weighbridge version show llama/2 --org acme" in run.err
    _, _, key, body = server.last
    assert key == "wb_mgmt_k"
    assert body["model"]["version_aliases"] == ["prod", "x"]


def test_upload_waits_and_says_how_far_it_is(server, weighbridge):
    server.on("POST", "/management/v1/orgs/acme/models:upload", version("queued", done=False))
    progress = {
        "step": "fetch",
        "bytes_total": 2_900_000,
        "bytes_done": 1_400_000,
        "files_total": 7,
        "files_done": 3,
    }
    server.on(
        "GET",
        f"/management/v1/{NAME}",
        version("in_progress", done=False, progress=progress),
        version("done"),
    )
    run = weighbridge("upload", "s3://b/p", "--arch", "llama", "--wait")
    assert run.code == 0
    assert "version 2: fetching, 1.4 MB of 2.9 MB, 3 of 7 files" in run.err


def test_a_failed_sync_ends_with_its_reason_and_code_1(server, weighbridge):
    server.on("POST", "/management/v1/orgs/acme/models:upload", version("queued", done=False))
    server.on(
        "GET",
        f"/management/v1/{NAME}",
        version("error", error_code="tensor_missing", error_message="lm_head is missing"),
    )
    run = weighbridge("upload", "s3://b/p", "--arch", "llama", "--wait", "--json")
    assert run.code == 1
    assert run.out == ""
    error = json.loads(run.err)["error"]
    assert error["code"] == "tensor_missing"
    assert "lm_head is missing" in error["message"]


def test_versions_and_aliases(server, weighbridge):
    server.on(
        "GET", "/management/v1/orgs/acme/models/llama/versions", {"model_versions": [version()]}
    )
    server.on(
        "PATCH",
        "/management/v1/orgs/acme/models/llama/versions/prod",
        {"name": NAME, "version_aliases": ["stable"]},
    )
    assert "s3://b/p" in weighbridge("versions", "llama").out
    assert weighbridge("alias", "set", "llama/prod", "stable").code == 0
    assert server.last[3] == {"version_aliases": ["stable"]}


def test_alias_set_without_aliases_needs_clear(server, weighbridge):
    assert weighbridge("alias", "set", "llama/prod").code == 2
    assert server.asked == []
    server.on("PATCH", f"/management/v1/{NAME}", {"name": NAME, "version_aliases": []})
    assert weighbridge("alias", "set", NAME, "--clear").code == 0
    assert server.last[3] == {"version_aliases": []}


def test_deleting_without_a_terminal_needs_yes(server, weighbridge):
    run = weighbridge("version", "delete", "llama/2")
    assert run.code == 2
    assert "--yes" in run.err
    server.on("DELETE", f"/management/v1/{NAME}", {"name": NAME, "deleted": True})
    run = weighbridge("version", "delete", "llama/2", "--yes", "--json")
    assert run.document == {"name": NAME, "deleted": True}


def test_deploy_takes_org_and_architecture_from_the_endpoint(server, weighbridge):
    server.on("GET", "/management/v1/endpoints/chat", endpoint())
    server.on("POST", "/management/v1/endpoints/chat:deployModel", OPERATION)
    assert weighbridge("deploy", "chat", "prod").code == 0
    assert server.last[3] == {"model": "orgs/acme/models/llama/versions/prod"}


def test_deploy_waits_and_prints_one_document(server, weighbridge):
    server.on("POST", "/management/v1/endpoints/chat:deployModel", OPERATION)
    server.on(
        "GET",
        "/management/v1/endpoints/chat",
        endpoint(deployed("in_progress", updated_replicas=1, total_replicas=2)),
        endpoint(deployed("complete", updated_replicas=2, total_replicas=2)),
    )
    run = weighbridge("deploy", "chat", NAME, "--wait", "--json")
    assert run.code == 0
    assert run.document["state"] == "complete"
    assert run.err == ""


def test_a_rollout_that_went_back_ends_with_code_1(server, weighbridge):
    server.on("POST", "/management/v1/endpoints/chat:rollback", OPERATION)
    server.on(
        "GET",
        "/management/v1/endpoints/chat",
        endpoint(deployed("rolled_back", error_message="3 new replicas failed")),
    )
    run = weighbridge("rollback", "chat", "--wait")
    assert run.code == 1
    assert "3 new replicas failed" in run.err


def test_a_wait_that_is_too_short_ends_with_code_1(server, weighbridge):
    server.on("POST", "/management/v1/endpoints/chat:rollback", OPERATION)
    server.on("GET", "/management/v1/endpoints/chat", endpoint(deployed("in_progress")))
    run = weighbridge("rollback", "chat", "--wait", "--timeout", "0")
    assert run.code == 1
    assert "the rollout goes on" in run.err


def test_endpoints_are_created_scaled_and_shown(server, weighbridge):
    server.on("POST", "/admin/v1/endpoints", SHAPE)
    server.on("PATCH", "/admin/v1/endpoints/chat", SHAPE)
    server.on("GET", "/management/v1/endpoints/chat", endpoint(deployed("done")))
    assert "nothing yet" in weighbridge("endpoint", "create", "chat", "--arch", "llama").out
    assert server.last[3]["org_name"] == "acme"
    assert weighbridge("endpoint", "scale", "chat", "--replicas", "3").code == 0
    assert server.last[3] == {"replicas": 3}
    assert weighbridge("endpoint", "scale", "chat").code == 2
    assert UUID in weighbridge("endpoint", "show", "chat").out


def test_architectures_are_registered_with_what_was_said(server, weighbridge):
    answer = {
        "model_arch_id": "llama",
        "source": "/models/llama",
        "digest": "d",
        "tensors": 11,
        "parameters": 1_000_000,
        "engine": {"engine": "llamacpp"},
        "org_names": [],
        "created": 1,
        "updated": 1,
    }
    server.on("POST", "/admin/v1/architectures", answer)
    run = weighbridge(
        *("arch", "register", "llama", "/models/llama", "--slots", "4"),
        *("--env", "A=b=c", "--command", "serve '{model}' --port {port}"),
        *("--health-path", "/up"),
    )
    assert run.code == 0
    assert "1,000,000" in run.out
    assert server.last[3] == {
        "model_arch_id": "llama",
        "source": "/models/llama",
        "engine": {
            "slots": 4,
            "env": {"A": "b=c"},
            "command": ["serve", "{model}", "--port", "{port}"],
            "health_path": "/up",
        },
    }


def test_a_command_with_an_open_quote_is_a_usage_error(weighbridge):
    run = weighbridge("arch", "register", "llama", "/models/llama", "--command", "serve 'x")
    assert run.code == 2
    assert "not quoted" in run.err


def test_orgs_and_keys(server, weighbridge):
    server.on("POST", "/admin/v1/orgs", ORG)
    server.on("POST", "/admin/v1/keys", {**KEY, "key": "wb_both_k1_SECRET"})
    server.on("GET", "/admin/v1/keys", {"keys": [KEY]})
    server.on("DELETE", "/admin/v1/keys/k1", {**KEY, "revoked": 1736700000})
    assert "ext-1" in weighbridge("org", "create", "acme").out
    assert "wb_both_k1_SECRET" in weighbridge("key", "create", "both").out
    assert "live" in weighbridge("key", "list").out
    assert "revoked" in weighbridge("key", "revoke", "k1", "--yes").out


def test_a_saved_key_is_not_printed(server, weighbridge, profile):
    server.on("POST", "/admin/v1/keys", {**KEY, "key": "wb_both_k1_SECRET"})
    for form in ([], ["--json"]):
        run = weighbridge("key", "create", "both", "--save", *form)
        assert run.code == 0
        assert "SECRET" not in run.out + run.err
    assert profile.read_text().count("wb_both_k1_SECRET") == 2
    assert profile.stat().st_mode & 0o777 == 0o600


def test_a_key_that_cannot_be_saved_is_not_made(server, weighbridge, profile):
    profile.parent.mkdir()
    profile.write_text('base_url = "https://other.test"\napi_key = "wb_mgmt_other"\n')
    run = weighbridge("key", "create", "both", "--save")
    assert run.code == 78
    assert "other.test" in run.err
    assert server.asked == []
    assert "wb_mgmt_other" in profile.read_text()


def test_status_replicas_logs_and_nodes(server, weighbridge):
    replica = {
        "id": "r1",
        "endpoint_id": "chat",
        "deployment_id": UUID,
        "version_id": 2,
        "state": "ready",
        "reason": "",
        "node": "here",
        "in_flight": 3,
        "created": 1,
        "ready": 2,
    }
    server.on(
        "GET",
        "/admin/v1/status",
        {"version": "0.1.0", "database": "ok", "gateways": [{"pid": 7, "routes_generation": 4}]},
    )
    server.on("GET", "/admin/v1/replicas?endpoint_id=chat", {"replicas": [replica]})
    server.on(
        "GET", "/admin/v1/replicas/r1/logs?tail_bytes=65536", {"id": "r1", "logs": "up\x1b[31m"}
    )
    free = {"cpus": 1.5, "gpus": 0.0, "memory_bytes": 3 << 29, "custom": {"slots": 8.0}}
    node = {"name": "here", "alive": True, "total": free, "free": free, "labels": {"rack": "r1"}}
    server.on("GET", "/admin/v1/nodes", {"nodes": [node]})
    assert "process 7" in weighbridge("status").out
    assert "ready" in weighbridge("replicas", "--endpoint", "chat").out
    assert weighbridge("logs", "r1").out == "up[31m\n"
    assert weighbridge("nodes", "--json").document == {"nodes": [node]}
    shown = weighbridge("nodes").out
    assert "1.5 CPU, 1.5 GiB, 8.0 slots" in " ".join(shown.split())
    assert "rack=r1" in shown


def test_the_weight_store_is_shown_verified_and_collected(server, weighbridge):
    damaged = {
        "digest": "d" * 64,
        "found_digest": "unreadable",
        "versions": ["acme/a/1"],
        "found": 1,
    }
    store = {
        "free_bytes": 5, "total_bytes": 10, "blobs": 2, "blob_bytes": 4, "versions": 1,
        "unused_blobs": 1, "unused_bytes": 3, "due_blobs": 2, "due_bytes": 4, "damaged": [damaged],
    }  # fmt: skip
    server.on("GET", "/admin/v1/store", store)
    server.on("POST", "/admin/v1/store:verify", store)
    server.on("POST", "/admin/v1/store:collect", {"dry_run": True, "blobs": 1, "size_bytes": 3})
    assert "acme/a/1" in weighbridge("store", "usage").out
    assert weighbridge("store", "verify", "--json").document == store
    assert "1 blobs would be removed, 3 bytes" in weighbridge("store", "gc", "--dry-run").out


def test_chat_streams_an_answer(server, weighbridge):
    events = [
        {"choices": [{"delta": {"content": "Hel"}}], "system_fingerprint": "fp_1-v2"},
        {"choices": [{"delta": {"content": "lo\x1b]0;x"}, "finish_reason": "stop"}]},
    ]
    server.on("POST", "/v1/chat/completions", [*map(json.dumps, events), "[DONE]"])
    run = weighbridge("chat", "chat", "Hi", "--system", "Be brief.", "--temperature", "0")
    assert run.out == "Hello]0;x\n"
    assert "fp_1-v2" in run.err
    _, _, key, body = server.last
    assert key == "wb_inf_k"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_chat_prints_one_document(server, weighbridge):
    answer = {"choices": [{"message": {"content": "Hello"}}], "system_fingerprint": "fp"}
    server.on("POST", "/v1/chat/completions", answer)
    assert weighbridge("chat", "chat", "Hi", "--json").document == answer


def test_chat_without_a_terminal_needs_a_prompt(server, weighbridge):
    assert weighbridge("chat", "chat").code == 2
    assert server.asked == []


@pytest.mark.parametrize(
    "command", ["org", "key", "arch", "endpoint", "version", "alias", "config"]
)
def test_every_command_of_a_group_has_a_sentence(weighbridge, command):
    run = weighbridge(command, "--help")
    assert run.code == 0
    rows = [line.strip("│ ") for line in run.out.split("Commands")[-1].splitlines()[1:]]
    for row in filter(None, rows):
        if not row.startswith("╰"):
            assert row.rstrip().endswith("."), row
