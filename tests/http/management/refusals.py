"""Calls of the management API that are refused, and the one shape of a refusal."""

from control_world import ARCH, Caller

MODELS = "/management/v1/orgs/my-org/models"
VERSIONS = f"{MODELS}/{ARCH}/versions"
UPLOAD = f"{MODELS}:upload"
ENDPOINT = "/management/v1/endpoints/my-org-llama"
FLAT = {"message", "type", "param", "code", "detail"}


def upload_body(**model: object) -> dict[str, object]:
    return {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/weights", **model}}


async def upload(member: Caller, **model: object) -> None:
    answer = await member("POST", UPLOAD, upload_body(**model))
    assert answer.status_code == 200, answer.text


async def deploy(member: Caller, model: str) -> object:
    return await member("POST", f"{ENDPOINT}:deployModel", {"model": model})


def check(answer: object, status: int, code: str, param: str | None = None) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == FLAT
    assert body["code"] == code
    if param is not None:
        assert body["param"] == param
    if isinstance(body["detail"], str):
        assert body["detail"] == body["message"]
    assert len(body["message"]) < 500
    return body
