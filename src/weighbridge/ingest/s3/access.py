"""Access to customers' buckets: the role assumed for an org, narrowed to one folder, and clients that refresh it."""

import json
from collections.abc import Callable
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    CredentialProvider,
    CredentialResolver,
    Credentials,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import ClientError

from weighbridge.errors import InvalidError
from weighbridge.ingest.s3.faults import Reader
from weighbridge.settings import Settings

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
LOOKS_PARALLEL = 32
"""HEADs and header reads in flight: small and many, so their number of round trips is what takes the time."""
SESSION_POLICY_CHARACTERS_MAX = 2048
SESSION_NAME = "weighbridge-sync"


class S3Access:
    """Makes S3 clients; endpoint, region and default role are the operator's alone (T8). Blocking."""

    def __init__(self, settings: Settings) -> None:
        self._endpoint_url = settings.s3_endpoint_url
        self._region = settings.s3_region
        self._role_arn = settings.s3_role_arn
        self._session_s = settings.s3_role_session_s
        # Shared because reading botocore's service descriptions is most of a client's cost.
        self._loader = botocore.loaders.create_loader()
        self._config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            # Retries are ours: one budget for requests and bodies, and they stop when the sync is cancelled.
            retries={"total_max_attempts": 1},
            max_pool_connections=max(settings.sync_parts_parallel, LOOKS_PARALLEL) + 2,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            tcp_keepalive=True,
            s3={"addressing_style": "path" if self._endpoint_url else "auto"},
            user_agent_extra="weighbridge",
        )

    def role_for(self, org_role_arn: str | None) -> str | None:
        """The org's own role, else the operator's; None means the server's own credentials."""
        return org_role_arn or self._role_arn

    # botocore builds client classes at run time, so they have no type of their own.
    def client(self, reader: Reader) -> Any:
        """An S3 client for the reader's bucket, in its region, with credentials that renew themselves.

        Raises what botocore raises; `faults.translate` knows it.
        """
        session = self._session()
        if reader.role_arn is not None:
            provider = _RoleProvider(self._role_credentials(reader))
            session.register_component("credential_provider", CredentialResolver([provider]))
        region = self._region
        if self._endpoint_url is None:
            region = self._bucket_region(session, reader.source.bucket)
        return self._s3(session, region)

    def _session(self) -> botocore.session.Session:
        session = botocore.session.get_session()
        session.register_component("data_loader", self._loader)
        return session

    def _s3(self, session: botocore.session.Session, region: str) -> Any:
        return boto3.Session(botocore_session=session).client(
            "s3", region_name=region, endpoint_url=self._endpoint_url, config=self._config
        )

    def _bucket_region(self, session: botocore.session.Session, bucket: str) -> str:
        client = self._s3(session, self._region)
        try:
            return located(client.get_bucket_location(Bucket=bucket).get("LocationConstraint"))
        except ClientError as error:
            if error.operation_name == "AssumeRole" or "NoSuchBucket" in str(error):
                raise
        try:
            answer = client.head_bucket(Bucket=bucket)
        except ClientError as error:
            # Even a refusal names the region.
            answer = error.response
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region") or self._region)

    def _role_credentials(self, reader: Reader) -> Credentials:
        policy = session_policy(reader)

        def assume() -> dict[str, str]:
            sts = boto3.Session(botocore_session=self._session()).client(
                "sts",
                region_name=self._region,
                endpoint_url=self._endpoint_url,
                config=self._config,
            )
            answer = sts.assume_role(
                RoleArn=reader.role_arn or "",
                RoleSessionName=SESSION_NAME,
                ExternalId=reader.external_id,
                Policy=policy,
                DurationSeconds=self._session_s,
            )
            credentials = answer["Credentials"]
            return {
                "access_key": credentials["AccessKeyId"],
                "secret_key": credentials["SecretAccessKey"],
                "token": credentials["SessionToken"],
                "expiry_time": credentials["Expiration"].isoformat(),
            }

        return _refreshable(assume)


def located(constraint: str | None) -> str:
    """GetBucketLocation's old words: nothing is us-east-1, EU is eu-west-1."""
    return {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(constraint, constraint or "")


def session_policy(reader: Reader) -> str:
    """What the assumed role may do in this session: read one folder of one bucket (T7)."""
    bucket = f"arn:{reader.partition}:s3:::{reader.source.bucket}"
    folder = _literal(reader.source.folder)
    statements = [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:GetObjectVersion"],
            "Resource": f"{bucket}/{folder}*",
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": bucket,
            "Condition": {"StringLike": {"s3:prefix": f"{folder}*"}},
        },
        {"Effect": "Allow", "Action": "s3:GetBucketLocation", "Resource": bucket},
        {
            "Effect": "Allow",
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": {"StringLike": {"kms:ViaService": "s3.*"}},
        },
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))
    if len(policy) > SESSION_POLICY_CHARACTERS_MAX:
        raise InvalidError(
            f"{reader.source} is too long for a session policy; use a shorter prefix.",
            code="BAD_WEIGHT_URI",
            param="weight_uri",
        )
    return policy


def _literal(text: str) -> str:
    """A customer's characters as policy text in which none of them is a wildcard or a variable."""
    return "".join(f"${{{letter}}}" if letter in "*?$" else letter for letter in text)


def _refreshable(assume: Callable[[], dict[str, str]]) -> Credentials:
    return DeferredRefreshableCredentials(refresh_using=assume, method="sts-assume-role")


class _RoleProvider(CredentialProvider):
    METHOD = "weighbridge-role"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials
