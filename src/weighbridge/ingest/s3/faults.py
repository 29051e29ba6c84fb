"""What can go wrong at the source, as errors a customer can act on, and whether trying again may help."""

import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import botocore.exceptions
import botocore.parsers
import urllib3.exceptions

from weighbridge.errors import WeighbridgeError
from weighbridge.ingest.s3.policies import Reader, bucket_policy, trust_policy
from weighbridge.weights.strict_json import shown


class Retry(StrEnum):
    """How long the same request may be tried again before its fault is final (reliability B1, causes)."""

    NEVER = "never"
    TRANSIENT = "transient"
    ACCESS = "access"
    DISK = "disk"


class SourceError(WeighbridgeError):
    """A fault of the source or the disk; `code` and message are what the version's row will show."""

    code = "SOURCE"

    def __init__(self, message: str, *, code: str, retry: Retry = Retry.NEVER) -> None:
        super().__init__(message, code=code)
        self.retry = retry


_TRANSIENT_CODES = frozenset(
    [
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    ]
)
_EXPIRED_CODES = frozenset(["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"])
_REGION_CODES = frozenset(
    ["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"]
)
_ACCESS_CODES = frozenset(
    ["AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"]
)
_IDENTITY_CODES = frozenset(
    ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"]
)
_GONE_CODES = frozenset(["NoSuchKey", "NoSuchVersion", "404", "NotFound"])
_NETWORK_ERRORS = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    socket.gaierror,
    TimeoutError,
    ConnectionError,
)


UNREADABLE = (ValueError, botocore.parsers.ResponseParserError)
"""What botocore raises for an answer that is not what its description says."""


def translate(error: Exception, reader: Reader, operation: str, key: str | None) -> SourceError:
    """The SourceError for what botocore or its transport raised; re-raises what is neither's."""
    match error:
        case SourceError():
            fault = error
        case botocore.exceptions.ClientError():
            fault = _from_answer(error, reader, operation, key)
        case (
            botocore.exceptions.NoCredentialsError() | botocore.exceptions.PartialCredentialsError()
        ):
            fault = SourceError(
                "The Weighbridge server has no AWS credentials of its own. Its operator must supply them.",
                code="NO_CREDENTIALS",
            )
        case botocore.exceptions.SSLError():
            fault = SourceError(
                f"The TLS certificate of the S3 service for {reader.source.bucket} is not trusted: "
                "the operator must check WEIGHBRIDGE_S3_ENDPOINT_URL and the CA bundle.",
                code="TLS",
            )
        case botocore.exceptions.BotoCoreError() if not isinstance(error, _NETWORK_ERRORS):
            fault = SourceError(
                f"{operation} on {reader.source} could not be asked: {shown(str(error), 200)}",
                code="S3_REQUEST",
            )
        case _ if isinstance(error, _NETWORK_ERRORS):
            fault = SourceError(
                f"The S3 service for {reader.source.bucket} did not answer {operation} ({type(error).__name__}).",
                code="UNREACHABLE",
                retry=Retry.TRANSIENT,
            )
        case _ if isinstance(error, UNREADABLE):
            fault = SourceError(
                f"The S3 service answered {operation} on {reader.source} with something that cannot be read: "
                f"{shown(str(error), 200)}",
                code="S3_PROTOCOL",
            )
        case _:
            raise error
    return fault


@dataclass(frozen=True, slots=True)
class _Answer:
    """An error answer of S3 or STS, and what was asked."""

    reader: Reader
    operation: str
    key: str | None
    status: int
    code: str
    said: str

    @property
    def what(self) -> str:
        if self.key is None:
            return str(self.reader.source)
        return f"s3://{self.reader.source.bucket}/{shown(self.key, 300)}"

    @property
    def transient(self) -> bool:
        return self.code in _TRANSIENT_CODES or self.status >= 500 or self.status == 429


def _from_answer(
    error: botocore.exceptions.ClientError, reader: Reader, operation: str, key: str | None
) -> SourceError:
    # Some services answer STS faults without an Error element, and S3 faults without a message.
    details = error.response.get("Error") or {}
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = details.get("Code") or str(status)
    # Credentials are renewed inside other calls, so the operation that failed may be the role's.
    asked = "AssumeRole" if error.operation_name == "AssumeRole" else operation
    answer = _Answer(reader, asked, key, status, code, shown(details.get("Message") or code, 300))
    return next(build(answer) for applies, build in _RULES if applies(answer))


def source_changed(what: str) -> SourceError:
    return SourceError(
        f"{what} was overwritten while it was being synced. Upload again when the files are stable.",
        code="SOURCE_CHANGED",
    )


def archived(what: str) -> SourceError:
    return SourceError(
        f"{what} is archived (Glacier or an archive tier). Restore it, or copy it to S3 Standard, and upload again.",
        code="ARCHIVED",
    )


def _role_denied(answer: _Answer) -> SourceError:
    reader = answer.reader
    return SourceError(
        f"The role {reader.role_arn} could not be assumed. Its trust policy must be: "
        f"{json.dumps(trust_policy(reader))}. STS said: {answer.said}",
        code="ROLE_ACCESS_DENIED",
        retry=Retry.ACCESS,
    )


def _no_bucket(answer: _Answer) -> SourceError:
    return SourceError(
        f"The bucket {answer.reader.source.bucket} does not exist. Check weight_uri.",
        code="NO_SUCH_BUCKET",
    )


def _gone(answer: _Answer) -> SourceError:
    return SourceError(
        f"{answer.what} was deleted while it was being synced. Upload again when the files are stable.",
        code="SOURCE_CHANGED",
    )


def _expired(answer: _Answer) -> SourceError:
    return SourceError(
        f"The S3 service calls the credentials for {answer.reader.source} expired, new ones too. "
        "The operator must check the server's clock.",
        code="TOKEN_EXPIRED",
        retry=Retry.TRANSIENT,
    )


def _wrong_region(answer: _Answer) -> SourceError:
    return SourceError(
        f"The bucket {answer.reader.source.bucket} lives in another region than the one asked. "
        "The operator must set WEIGHBRIDGE_S3_REGION, or the role must be allowed s3:GetBucketLocation.",
        code="WRONG_REGION",
    )


def _no_key(answer: _Answer) -> SourceError:
    return SourceError(
        f"{answer.what} is encrypted with a KMS key that {_who(answer.reader)} may not use. Allow it kms:Decrypt "
        "in the key's policy and in the role's own; the key aws/s3 cannot be shared between accounts. "
        f"S3 said: {answer.said}",
        code="KMS_ACCESS_DENIED",
        retry=Retry.ACCESS,
    )


def _bad_identity(answer: _Answer) -> SourceError:
    return SourceError(
        f"The S3 service does not accept the server's own credentials ({shown(answer.code)}). "
        "Its operator must renew them.",
        code="BAD_CREDENTIALS",
        retry=Retry.ACCESS,
    )


def _denied(answer: _Answer) -> SourceError:
    listing = answer.operation in {"ListObjectsV2", "HeadBucket"}
    permission = "s3:ListBucket" if listing else "s3:GetObject"
    # Without s3:ListBucket S3 answers 403 for a key that does not exist, so both causes are named.
    absent = "" if listing else " (or the object is gone and s3:ListBucket is missing)"
    return SourceError(
        f"{_who(answer.reader)} lacks {permission} on {answer.what}{absent}. Add to the policy of the bucket "
        f"{answer.reader.source.bucket}: {json.dumps(bucket_policy(answer.reader))}",
        code="LIST_ACCESS_DENIED" if listing else "GET_ACCESS_DENIED",
        retry=Retry.ACCESS,
    )


def _unavailable(answer: _Answer) -> SourceError:
    return SourceError(
        f"The S3 service answered {answer.operation} on {answer.what} with {shown(answer.code)}.",
        code="UNREACHABLE",
        retry=Retry.TRANSIENT,
    )


def _refused(answer: _Answer) -> SourceError:
    return SourceError(
        f"The S3 service refused {answer.operation} on {answer.what} with {shown(answer.code)}: {answer.said}",
        code="S3_REQUEST",
    )


def _who(reader: Reader) -> str:
    return f"The role {reader.role_arn}" if reader.role_arn else "The Weighbridge server"


_RULES: tuple[tuple[Callable[[_Answer], bool], Callable[[_Answer], SourceError]], ...] = (
    (lambda a: a.operation == "AssumeRole" and a.code in _EXPIRED_CODES, _bad_identity),
    (lambda a: a.code in _EXPIRED_CODES, _expired),
    (lambda a: a.transient, _unavailable),
    (lambda a: a.operation == "AssumeRole" and a.code in _IDENTITY_CODES, _bad_identity),
    (lambda a: a.operation == "AssumeRole", _role_denied),
    (lambda a: a.code == "NoSuchBucket", _no_bucket),
    (lambda a: a.code in {"412", "PreconditionFailed"}, lambda a: source_changed(a.what)),
    (lambda a: a.code in _GONE_CODES and a.key is not None, _gone),
    (lambda a: a.code == "InvalidObjectState", lambda a: archived(a.what)),
    (lambda a: a.code in _REGION_CODES or a.status in {301, 307}, _wrong_region),
    (lambda a: "kms" in a.said.lower() or a.code.startswith("KMS."), _no_key),
    (lambda a: a.code in _IDENTITY_CODES, _bad_identity),
    (lambda a: a.code in _ACCESS_CODES or a.status == 403, _denied),
    (lambda _: True, _refused),
)
"""The first rule that applies decides."""
