"""A real S3 server for tests: moto as a process of its own over HTTP, with authentication switched on.

    with running_s3() as s3:
        s3.create_bucket("acme", versioned=True)
        s3.put("acme", "model/model.safetensors", content)

The Weighbridge server's identity is `s3.environment` (put it into os.environ); it may do nothing but assume
`s3.role_arn`, which only opens with `s3.external_id` and may only read. moto lets a *missing* external id
pass, so what we send is asserted elsewhere.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

REGION = "us-east-1"
READ_ACTIONS = ("s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:GetBucketLocation")
EXTERNAL_ID = "wb-external-id-of-acme"

# Ends with its stdin, so it never outlives the process that started it.
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@dataclass(frozen=True, slots=True)
class S3Server:
    endpoint_url: str
    environment: Mapping[str, str]
    role_arn: str
    external_id: str
    customer: Any
    iam: Any
    owner_key: tuple[str, str]
    """Of somebody who may do anything with buckets, as an operator with his own."""

    def create_bucket(self, bucket: str, *, versioned: bool = False) -> None:
        self.customer.create_bucket(Bucket=bucket)
        if versioned:
            self.customer.put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )

    def put(self, bucket: str, key: str, content: bytes, **options: str) -> None:
        self.customer.put_object(Bucket=bucket, Key=key, Body=content, **options)

    def create_role(self, name: str, actions: Sequence[str], external_id: str = EXTERNAL_ID) -> str:
        """A role that the server's identity may assume; returns its ARN."""
        trust = _statement(
            Principal={"AWS": "arn:aws:iam::123456789012:user/weighbridge"},
            Action="sts:AssumeRole",
            Condition={"StringEquals": {"sts:ExternalId": external_id}},
        )
        role = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        policy = _statement(Action=list(actions), Resource="*")
        self.iam.put_role_policy(
            RoleName=name, PolicyName="read", PolicyDocument=json.dumps(policy)
        )
        return str(role["Role"]["Arn"])


@contextmanager
def running_s3() -> Iterator[S3Server]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"INITIAL_NO_AUTH_ACTION_COUNT": "1000000", "PATH": "/usr/bin:/bin"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield _prepare(f"http://127.0.0.1:{port}")
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _prepare(endpoint_url: str) -> S3Server:
    iam = _client("iam", endpoint_url, ("setup", "setup"))
    owner = _user(iam, "customer", _statement(Action=["s3:*", "iam:*"], Resource="*"))
    server = _user(iam, "weighbridge", _statement(Action="sts:AssumeRole", Resource="*"))
    s3 = S3Server(
        endpoint_url=endpoint_url,
        environment={
            "AWS_ACCESS_KEY_ID": server[0],
            "AWS_SECRET_ACCESS_KEY": server[1],
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        role_arn="arn:aws:iam::123456789012:role/reader",
        external_id=EXTERNAL_ID,
        customer=_client("s3", endpoint_url, owner),
        iam=_client("iam", endpoint_url, owner),
        owner_key=owner,
    )
    assert s3.create_role("reader", READ_ACTIONS) == s3.role_arn
    request = urllib.request.Request(
        f"{endpoint_url}/moto-api/reset-auth",
        data=b"0",
        headers={"Content-Type": "text/plain"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    return s3


def _user(iam: Any, name: str, policy: object) -> tuple[str, str]:
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def _statement(**members: object) -> object:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **members}]}


def _client(service: str, endpoint_url: str, key: tuple[str, str]) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
