"""Our schema and answers against the published interface, as `tests/conformance/management-openapi.yaml` states it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from control_world import ARCH, Caller, World
from weighbridge.accounts.model import Org
from weighbridge.api.app import routes_app
from weighbridge.api.schema import schema_text
from weighbridge.clock import Clock

ROOT = Path(__file__).parents[3]
PUBLISHED = yaml.safe_load((ROOT / "tests/conformance/management-openapi.yaml").read_text())
CHECKED_IN = ROOT / "docs/api/openapi.json"
MODELS = "/management/v1/orgs/my-org/models"
VERSION = f"{MODELS}/{ARCH}/versions/1"
ENDPOINT = "/management/v1/endpoints/my-org-llama"


def operations(
    paths: Mapping[str, Mapping[str, object]],
) -> dict[tuple[str, str], Mapping[str, object]]:
    return {
        (method, path): operation
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method != "parameters"
    }


def validate(answer: object, method: str, path: str) -> None:
    """The answer meets the published schema of the call, and the published schema of errors if it is one."""
    operation = operations(PUBLISHED["paths"])[method.lower(), path]
    if answer.status_code == 200:
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    else:
        schema = {"$ref": "#/components/schemas/Error"}
    root = {**schema, "components": PUBLISHED["components"]}
    Draft202012Validator(root, format_checker=FormatChecker()).validate(answer.json())


def test_the_checked_in_schema_is_the_apps() -> None:
    """Regenerate with: python -m weighbridge.api.schema > docs/api/openapi.json"""
    assert CHECKED_IN.read_text() == schema_text()


def test_the_nine_published_operations_are_there_under_their_ids() -> None:
    ours = operations(routes_app(Clock()).openapi()["paths"])
    published = operations(PUBLISHED["paths"])
    assert len(published) == 9
    for key, operation in published.items():
        assert ours[key]["operationId"] == operation["operationId"]
        ours_required = set(body_schema(ours[key]).get("required", ()))
        assert ours_required == set(published_body(operation).get("required", ())), key


def body_schema(operation: Mapping[str, object]) -> Mapping[str, object]:
    if "requestBody" not in operation:
        return {}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    name = schema["$ref"].rpartition("/")[2]
    return dict(routes_app(Clock()).openapi()["components"]["schemas"][name])


def published_body(operation: Mapping[str, object]) -> Mapping[str, object]:
    if "requestBody" not in operation:
        return {}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return dict(PUBLISHED["components"]["schemas"][schema["$ref"].rpartition("/")[2]])


def test_every_operation_has_an_id_of_its_own_a_summary_and_the_error_shape() -> None:
    ours = operations(routes_app(Clock()).openapi()["paths"])
    ids = [operation["operationId"] for operation in ours.values()]
    assert len(set(ids)) == len(ids)
    for operation in ours.values():
        assert operation["description"]
        assert operation["security"] == [{"BearerAuth": []}]
        assert set(operation["responses"]) == {"200", "default"}


@pytest.mark.parametrize("example", ["with everything", "bare"])
async def test_every_answer_meets_the_published_schema(
    world: World, org: Org, member: Caller, example: str
) -> None:
    full = example == "with everything"
    model: dict[str, object] = {"weight_uri": "s3://my-bucket/weights"}
    if full:
        model |= {"version_aliases": ["production"], "system_fingerprint_suffix": "sfx"}
    await world.create_endpoint("my-org-llama", org)
    upload = "/management/v1/orgs/{org_name}/models:upload"
    validate(
        await member("POST", f"{MODELS}:upload", {"model_arch_id": ARCH, "model": model}),
        "POST",
        upload,
    )
    if full:
        await world.end_sync(org, 1)
        name = {"model": f"orgs/my-org/models/{ARCH}/versions/production"}
        deploy = await member("POST", f"{ENDPOINT}:deployModel", name)
        assert deploy.status_code == 200
        validate(deploy, "POST", "/management/v1/endpoints/{endpoint_id}:deployModel")
    org_path, version = "/management/v1/orgs/{org_name}", "/models/{model_arch_id}/versions"
    for path, template in (
        (MODELS, f"{org_path}/models"),
        (f"{MODELS}/{ARCH}/versions", org_path + version),
        (VERSION, f"{org_path}{version}/{{version_id}}"),
        ("/management/v1/orgs/my-org/endpoints", f"{org_path}/endpoints"),
        (ENDPOINT, "/management/v1/endpoints/{endpoint_id}"),
    ):
        answer = await member("GET", path)
        assert answer.status_code == 200
        validate(answer, "GET", template)
    aliases = await member("PATCH", VERSION, {"version_aliases": ["latest"] if full else []})
    assert aliases.status_code == 200
    validate(aliases, "PATCH", f"{org_path}{version}/{{version_id}}")
    deleted = await member("DELETE", VERSION)
    assert deleted.status_code == (409 if full else 200)
    validate(deleted, "DELETE", f"{org_path}{version}/{{version_id}}")


async def test_every_kind_of_refusal_meets_the_published_error_schema(member: Caller) -> None:
    upload = "/management/v1/orgs/{org_name}/models:upload"
    for body in (
        None,
        {},
        {"model_arch_id": "absent", "model": {"weight_uri": "s3://bucket/x"}},
        {"x": 1},
    ):
        answer = await member("POST", f"{MODELS}:upload", body)
        assert answer.status_code in (400, 404)
        validate(answer, "POST", upload)


async def test_the_schema_is_served_without_a_key(world: World) -> None:
    answer = await world.client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json()["info"]["title"] == "Weighbridge Management API"
