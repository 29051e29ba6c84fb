"""Access to customers' buckets: the role assumed for an org, narrowed to one folder, and clients that refresh it."""

import re
from collections.abc import Callable
from typing import Any

import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    CredentialProvider,
    CredentialResolver,
    Credentials,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError

from weighbridge.errors import InvalidError
from weighbridge.ingest.model import S3Prefix
from weighbridge.ingest.s3.policies import Reader, session_policy
from weighbridge.settings import Settings

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
HURRIED_CONNECT_S = 2
HURRIED_READ_S = 4
SESSION_SECONDS_MIN = 900
"""The shortest session that STS gives."""
LOOKS_PARALLEL = 32
"""HEADs and header reads in flight: small and many, so their number of round trips is what takes the time."""

_ASSUMED_ROLE = re.compile(r"arn:([a-z-]+):sts::([0-9]{12}):assumed-role/([^/]+)/.+")


class S3Access:
    """Makes S3 clients; endpoint, region and default role are the operator's alone (T8). Blocking."""

    def __init__(
        self,
        settings: Settings,
        *,
        hurried: bool = False,
        loader: botocore.loaders.Loader | None = None,
    ) -> None:
        self._settings = settings
        self._endpoint_url = settings.s3_endpoint_url
        self._region = settings.s3_region
        self._role_arn = settings.s3_role_arn
        self.owner_is_proven = settings.s3_bucket_owner == "proven"
        self._store_bucket = (settings.store_url or "").removeprefix("s3://").partition("/")[0]
        self._session_s = settings.s3_role_session_s
        # Shared because reading botocore's service descriptions is most of a client's cost.
        self._loader = loader or _Loader()
        self._config = Config(
            connect_timeout=HURRIED_CONNECT_S if hurried else CONNECT_TIMEOUT_S,
            read_timeout=HURRIED_READ_S if hurried else READ_TIMEOUT_S,
            # Retries are ours: one budget for requests and bodies, and they stop when the sync is cancelled.
            retries={"total_max_attempts": 1},
            max_pool_connections=max(settings.sync_parts_parallel, LOOKS_PARALLEL) + 2,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            tcp_keepalive=True,
            s3={"addressing_style": "path" if self._endpoint_url else "auto"},
            user_agent_extra="weighbridge",
        )

    def reader(self, source: S3Prefix, org_role_arn: str | None, external_id: str) -> Reader:
        """Who reads for an org: its own role, else the operator's; without either the server's own credentials.

        InvalidError for the bucket of the weight store, which holds other orgs' weights too.
        """
        if self._store_bucket == source.bucket:
            raise InvalidError(
                f"{source} lies in the bucket of the weight store. Name a bucket of your own.",
                code="BAD_WEIGHT_URI",
                param="weight_uri",
            )
        own = org_role_arn is not None
        return Reader(source, org_role_arn or self._role_arn, external_id, shared=not own)

    def hurried(self) -> "S3Access":
        """The same access with short timeouts, for probes that somebody waits for."""
        return S3Access(self._settings, hurried=True, loader=self._loader)

    # botocore builds client classes at run time, so they have no type of their own.
    def client(self, reader: Reader, *, looks_around: bool = False) -> Any:
        """An S3 client for the reader's bucket, in its region, with credentials that renew themselves.

        `looks_around` lets it list beside the folder. Raises what botocore raises; `faults.translate` knows it.
        """
        session = self._session()
        if reader.role_arn is not None:
            policy = session_policy(reader, looks_around=looks_around)
            provider = _RoleProvider(self._role_credentials(reader, policy))
            session.register_component("credential_provider", CredentialResolver([provider]))
        region = self._region
        if self._endpoint_url is None:
            region = self._bucket_region(session, reader.source.bucket)
        return self._s3(session, region)

    def assume(
        self,
        reader: Reader,
        policy: str,
        *,
        external_id: str | None,
        session_s: int = SESSION_SECONDS_MIN,
    ) -> dict[str, str]:
        """Assume the reader's role; returns botocore's names for fresh credentials, raises its ClientError."""
        request: dict[str, Any] = {} if external_id is None else {"ExternalId": external_id}
        answer = self._sts().assume_role(
            RoleArn=reader.role_arn or "",
            RoleSessionName=reader.session_name,
            Policy=policy,
            DurationSeconds=session_s,
            **request,
        )
        credentials = answer["Credentials"]
        return {
            "access_key": credentials["AccessKeyId"],
            "secret_key": credentials["SecretAccessKey"],
            "token": credentials["SessionToken"],
            "expiry_time": credentials["Expiration"].isoformat(),
        }

    def server_identity(self) -> str | None:
        """The IAM user or role this server is, as a policy's principal; None when STS does not say."""
        try:
            arn = str(self._sts().get_caller_identity()["Arn"])
        except (ClientError, BotoCoreError, KeyError):
            return None
        assumed = _ASSUMED_ROLE.fullmatch(arn)
        return arn if assumed is None else "arn:{}:iam::{}:role/{}".format(*assumed.groups())

    def _session(self) -> botocore.session.Session:
        session = botocore.session.get_session()
        session.register_component("data_loader", self._loader)
        return session

    def _s3(self, session: botocore.session.Session, region: str) -> Any:
        return session.create_client(
            "s3", region_name=region, endpoint_url=self._endpoint_url, config=self._config
        )

    def _sts(self) -> Any:
        return self._session().create_client(
            "sts", region_name=self._region, endpoint_url=self._endpoint_url, config=self._config
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

    def _role_credentials(self, reader: Reader, policy: str) -> Credentials:
        def assume() -> dict[str, str]:
            return self.assume(
                reader, policy, external_id=reader.external_id, session_s=self._session_s
            )

        return _refreshable(assume)


def located(constraint: str | None) -> str:
    """GetBucketLocation's old words: nothing is us-east-1, EU is eu-west-1."""
    return {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(constraint, constraint or "")


def _refreshable(assume: Callable[[], dict[str, str]]) -> Credentials:
    return DeferredRefreshableCredentials(refresh_using=assume, method="sts-assume-role")


class _Loader(botocore.loaders.Loader):
    """Names the services used here without a look at all there are, which takes a third of a client's cost."""

    def list_available_services(self, type_name: str) -> list[str]:
        del type_name
        return ["s3", "sts"]


class _RoleProvider(CredentialProvider):
    METHOD = "weighbridge-role"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials
