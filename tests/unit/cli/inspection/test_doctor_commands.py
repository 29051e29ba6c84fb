"""The commands that look: the S3 doctor, the difference of versions, the policies of a bucket."""

import json

EXPLAIN = "/management/v1/orgs/acme/models:explainAccess"
STATEMENT = {"Sid": "WeighbridgeList", "Effect": "Allow"}
REFUSED = {
    "ok": False,
    "steps": [
        {"name": "role", "ok": True, "message": "The role can be assumed."},
        {"name": "external_id", "ok": True, "code": "ROLE_OPEN", "message": "Open to all."},
        {
            "name": "list",
            "ok": False,
            "code": "LIST_ACCESS_DENIED",
            "message": "The role lacks s3:ListBucket.",
            "statement": STATEMENT,
            "goes_into": "the policy of the bucket",
        },
    ],
    "look_alikes": [
        {"code": "PREFIX_NEAR_MISS", "message": "Beside it.", "suggestion": "s3://b/right"}
    ],
}
FITS = {
    "ok": True,
    "steps": [{"name": "role", "ok": True, "message": "fine"}],
    "look_alikes": [],
    "verdict": {"model_arch_id": "llama", "ok": True, "problems": [], "files": 1, "tensors": 3},
}


def test_the_doctor_prints_cause_statement_and_hint_and_fails(server, weighbridge):
    server.on("POST", EXPLAIN, REFUSED)
    run = weighbridge("doctor", "s3://b/rigth", "--org", "acme")
    assert run.code == 1
    assert "FAILED list (LIST_ACCESS_DENIED): The role lacks s3:ListBucket." in run.out
    assert "warn   external_id (ROLE_OPEN)" in run.out
    assert "add to the policy of the bucket:" in run.out
    assert '"Sid": "WeighbridgeList"' in run.out
    assert "try s3://b/right" in run.out


def test_the_doctor_passes_the_architecture_on_and_says_that_weights_fit(server, weighbridge):
    server.on("POST", EXPLAIN, FITS)
    run = weighbridge("doctor", "s3://b/p", "--arch", "llama", "--org", "acme")
    assert run.code == 0
    assert "the weights fit" in run.out


def test_weights_that_do_not_fit_fail_with_every_problem(server, weighbridge):
    problem = {"code": "WRONG_TENSORS", "message": "1 missing: b", "count": 1}
    verdict = {**FITS["verdict"], "ok": False, "problems": [problem]}
    server.on("POST", EXPLAIN, {**FITS, "ok": False, "verdict": verdict})
    run = weighbridge("doctor", "s3://b/p", "--arch", "llama", "--org", "acme", "--json")
    assert run.code == 1
    assert json.loads(run.out)["verdict"]["problems"] == [problem]


def test_versions_are_compared_by_name_or_number(server, weighbridge):
    answer = {
        "from_version": "x",
        "to_version": "y",
        "tensors": 291,
        "differing": 41,
        "measured": 41,
        "summary": "41 of 291 tensors differ",
        "changes": [{"name": "w", "change": "changed", "relative_change": 0.0123}],
    }
    server.on(
        "GET", "/management/v1/orgs/acme/models/llama/versions:diff?from=1&to=production", answer
    )
    run = weighbridge("version", "diff", "llama/1", "production", "--org", "acme")
    assert run.code == 0
    assert "41 of 291 tensors differ" in run.out
    assert "1.23 %" in run.out
    run = weighbridge("version", "diff", "llama/1", "production", "--org", "acme", "--exit-code")
    assert (run.code, "41 of 291" in run.out) == (1, True)


def test_versions_of_two_architectures_are_not_compared(server, weighbridge):
    run = weighbridge("version", "diff", "llama/1", "qwen/1", "--org", "acme")
    assert run.code == 1
    assert "within one architecture" in run.err


def test_the_policies_of_a_bucket_are_printed_to_be_pasted(server, weighbridge):
    policy = {"Version": "2012-10-17", "Statement": [STATEMENT]}
    answer = {"trust_policy": policy, "role_policy": policy, "bucket_policy": policy}
    server.on("GET", "/admin/v1/orgs/acme/s3-setup?bucket=b&prefix=p", answer)
    run = weighbridge("org", "s3-setup", "acme", "--bucket", "b", "--prefix", "p")
    assert run.code == 0
    assert run.out.count('"Version": "2012-10-17"') == 3
    assert "Bucket policy" in run.out


def test_buckets_are_listed_and_released(server, weighbridge):
    bound = {"bucket": "b", "org_name": "acme", "role_arn": None, "bound": 1736700000}
    server.on("GET", "/admin/v1/buckets", {"buckets": [bound]})
    assert "the shared role" in weighbridge("org", "buckets").out
    server.on("DELETE", "/admin/v1/buckets/b", {"bucket": "b", "released": True})
    assert weighbridge("org", "release-bucket", "b", "--yes").code == 0
