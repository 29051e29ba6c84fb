"""The customer's side of the demo: an S3 server with authentication on, a bucket, and a role to read it."""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import boto3
import httpx
from botocore.config import Config

from weighbridge.cli.demo.process import Child
from weighbridge.errors import SetupError

BUCKET = "customer-models"
REGION = "us-east-1"
READY_TIMEOUT_S = 30.0
_DIRECT = Config(proxies={}, s3={"addressing_style": "path"})
_NO_AUTH_CALLS = 1_000_000
"""Calls the S3 server lets pass unchecked; the demo ends this by hand once its two users exist."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    id: str
    secret: str = field(repr=False)

    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def require_installed() -> None:
    """SetupError unless the optional parts are here."""
    missing = [name for name in ("moto", "flask", "flask_cors") if find_spec(name) is None]
    if missing:
        raise SetupError(
            f"The demo's S3 server is not installed ({', '.join(missing)}); run: pip install 'weighbridge[demo]'"
        )


class Bucket:
    """The running S3 server, and what the customer did there.

    `platform_key` belongs to a user who may assume roles and nothing else: it is what the Weighbridge server
    gets. The customer's own key stays here.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        env = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(_NO_AUTH_CALLS)}
        argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._child = Child("S3 server", argv, env=env, log=log)
        self.platform_key = AccessKey("", "")
        self._customer_key = AccessKey("", "")

    def prepare(self, models: Iterable[Path]) -> None:
        """Wait for the server, make the two users, demand signatures, then fill the bucket as the customer."""
        self._wait()
        nobody = AccessKey("anyone", "anything")
        self.platform_key = self._make_user(
            nobody, "weighbridge", _allow(["sts:AssumeRole"], ["*"])
        )
        self._customer_key = self._make_user(nobody, "customer", _allow(["*"], ["*"]))
        with httpx.Client(trust_env=False) as http:
            http.post(f"{self.url}/moto-api/reset-auth", content=b"0").raise_for_status()
        s3 = self._client("s3", self._customer_key)
        s3.create_bucket(Bucket=BUCKET)
        for model in models:
            for file in sorted(model.iterdir()):
                # The reference answers are test data of this repository, no part of a model.
                if file.is_file() and file.name != "reference.json":
                    s3.put_object(
                        Bucket=BUCKET, Key=f"{model.name}/{file.name}", Body=file.read_bytes()
                    )

    def grant(self, external_id: str) -> str:
        """Make the role that reads the bucket and trusts the platform with this external id; its ARN."""
        iam = self._client("iam", self._customer_key)
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": "*"},
                    "Action": "sts:AssumeRole",
                    "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
                }
            ],
        }
        role = iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(trust))
        actions = ["s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:GetBucketLocation"]
        resources = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
        iam.put_role_policy(
            RoleName="reader", PolicyName="read", PolicyDocument=_allow(actions, resources)
        )
        return str(role["Role"]["Arn"])

    def stop(self) -> None:
        self._child.stop(grace_s=5.0)

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        with httpx.Client(trust_env=False, timeout=2.0) as http:
            while True:
                self._child.require_running()
                try:
                    if http.get(f"{self.url}/moto-api/").is_success:
                        return
                except httpx.TransportError as error:
                    if time.monotonic() > deadline:
                        raise SetupError(
                            f"The S3 server did not answer within {READY_TIMEOUT_S:g} s."
                        ) from error
                time.sleep(0.1)

    def _make_user(self, key: AccessKey, name: str, policy: str) -> AccessKey:
        iam = self._client("iam", key)
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return AccessKey(made["AccessKeyId"], made["SecretAccessKey"])

    def _client(self, service: Literal["iam", "s3"], key: AccessKey) -> Any:  # made at run time
        session = boto3.Session(
            aws_access_key_id=key.id, aws_secret_access_key=key.secret, region_name=REGION
        )
        return session.client(service, endpoint_url=self.url, config=_DIRECT)


def _allow(actions: list[str], resources: list[str]) -> str:
    statement = {"Effect": "Allow", "Action": actions, "Resource": resources}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
