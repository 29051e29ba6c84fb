"""What the S3 doctor is asked in its tests, the statements that it should name, and refusals of a stub."""

from collections.abc import Callable
from datetime import UTC, datetime

from ingest_world import World
from s3_stub import Request, S3Stub
from weighbridge.accounts.model import Org
from weighbridge.clock import monotonic_s
from weighbridge.ingest.doctor.examine import Doctor
from weighbridge.ingest.doctor.model import Report, Step
from weighbridge.ingest.s3.access import S3Access
from weighbridge.weights.verdict import Wish

KEY = "m/model.safetensors"
ROLE = "arn:aws:iam::999999999999:role/own"
SHARED = "arn:aws:iam::123456789012:role/reader"
EXTERNAL_ID = "external-id-of-acme"
SERVER = "arn:aws:iam::210987654321:role/weighbridge"

TRUST = {
    "Sid": "WeighbridgeAssume",
    "Effect": "Allow",
    "Principal": {"AWS": SERVER},
    "Action": "sts:AssumeRole",
    "Condition": {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}},
}
LIST = {
    "Sid": "WeighbridgeList",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": "s3:ListBucket",
    "Resource": "arn:aws:s3:::acme",
    "Condition": {"StringLike": {"s3:prefix": "m/*"}},
}
READ = {
    "Sid": "WeighbridgeRead",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": ["s3:GetObject", "s3:GetObjectVersion"],
    "Resource": "arn:aws:s3:::acme/m/*",
}
LOCATION = {
    "Sid": "WeighbridgeLocation",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": "s3:GetBucketLocation",
    "Resource": "arn:aws:s3:::acme",
}
DECRYPT = {
    "Sid": "WeighbridgeDecrypt",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": "kms:Decrypt",
    "Resource": "*",
}
DENIED = (403, "AccessDenied: Access Denied")
Refusal = Callable[[Request], tuple[int, str] | None]


class Stubbed:
    def __init__(self, stub: S3Stub) -> None:
        self.endpoint_url = stub.endpoint_url
        self.role_arn = SHARED
        self.external_id = EXTERNAL_ID


def strict_role(request: Request) -> tuple[int, str] | None:
    """A role whose trust policy is right."""
    if request.operation == "AssumeRole" and request.form.get("ExternalId") != EXTERNAL_ID:
        return DENIED
    return None


async def examine(
    world: World, uri: str = "s3://acme/m", *, role: str | None = ROLE, wish: Wish | None = None
) -> Report:
    org = Org("org_1", "acme", EXTERNAL_ID, role, datetime(2026, 1, 1, tzinfo=UTC))
    doctor = Doctor(world.database, S3Access(world.settings), monotonic_s)
    return await doctor.examine(org, uri, wish)


def also(refusal: Refusal) -> Refusal:
    return lambda request: strict_role(request) or refusal(request)


def step(report: Report, name: str) -> Step:
    return next(one for one in report.steps if one.name == name)
