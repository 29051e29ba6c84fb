"""The operator's bucket as a place for objects: put, get, list and delete, with one kind of error."""

import base64
import email.utils
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar

import awscrt.checksums
import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from weighbridge.weights.disk.verification import Readable
from weighbridge.weights.node.source import BUCKET_SCHEME

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
ATTEMPTS_MAX = 5
CONNECTIONS_MAX = 32
DELETE_KEYS_MAX = 1_000
"""Of one DeleteObjects."""
_ABSENT = frozenset(["404", "NoSuchKey", "NotFound"])

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """`age_s` is measured by the bucket's own clock where it tells it."""

    key: str
    size_bytes: int
    age_s: float


@dataclass(frozen=True, slots=True)
class SentPart:
    number: int
    etag: str
    crc32c: str


class BucketError(OSError):
    """The bucket did not do what it was asked; for callers it is a disk that fails."""

    def __init__(self, operation: str, key: str, reason: str) -> None:
        super().__init__(5, f"the bucket of the weight store answered {operation} {key}: {reason}")


class Bucket:
    """The objects below one prefix; keys are relative to it. Blocking, for many threads."""

    def __init__(
        self,
        name: str,
        prefix: str,
        *,
        endpoint_url: str | None = None,
        region: str = "us-east-1",
        access_key: tuple[str, str] | None = None,
    ) -> None:
        self.name = name
        self._prefix = f"{prefix}/" if prefix else ""
        key_id, secret = access_key or (None, None)
        session = boto3.Session(aws_access_key_id=key_id, aws_secret_access_key=secret)
        # botocore builds client classes at run time, so they have no type of their own.
        self._client: Any = session.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS_MAX},
                max_pool_connections=CONNECTIONS_MAX,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path" if endpoint_url else "auto"},
                user_agent_extra="weighbridge",
            ),
        )

    @classmethod
    def at(
        cls,
        url: str,
        *,
        endpoint_url: str | None,
        region: str,
        key_id: str | None,
        secret: str | None,
    ) -> Self:
        """That of `s3://bucket/prefix`; without a key, as the identity that AWS finds for this process."""
        name, _, prefix = url.removeprefix(BUCKET_SCHEME).partition("/")
        return cls(
            name,
            prefix.strip("/"),
            endpoint_url=endpoint_url,
            region=region,
            access_key=None if key_id is None or secret is None else (key_id, secret),
        )

    def put(self, key: str, content: bytes) -> None:
        """S3 itself refuses bytes that do not have the checksum sent with them."""
        self._ask("PutObject", key, Body=content, ChecksumCRC32C=crc32c_of(content))

    def get(self, key: str) -> bytes | None:
        """None for an object that is not there. For small ones."""
        try:
            with self.open(key) as body:
                return _whole(body)
        except FileNotFoundError:
            return None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise BucketError("GetObject", key, type(error).__name__) from error

    def open(self, key: str, start: int = 0, end: int | None = None) -> "Body":
        """The bytes [start, end), to be closed; FileNotFoundError for an object that is not there."""
        last = "" if end is None else str(end - 1)
        asked = {} if start == 0 and end is None else {"Range": f"bytes={start}-{last}"}
        try:
            answer = self._ask("GetObject", key, **asked)
        except BucketError as error:
            if _absent(error):
                raise FileNotFoundError(key) from error
            raise
        return Body(answer["Body"], key)

    def head(self, key: str) -> StoredObject | None:
        try:
            answer = self._ask("HeadObject", key)
        except BucketError as error:
            if _absent(error):
                return None
            raise
        return StoredObject(key, int(answer["ContentLength"]), _age_s(answer, answer))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Everything below, by key."""
        token: dict[str, str] = {}
        while True:
            page = self._ask("ListObjectsV2", None, Prefix=f"{self._prefix}{prefix}", **token)
            for item in page.get("Contents", ()):
                key = str(item["Key"]).removeprefix(self._prefix)
                yield StoredObject(key, int(item["Size"]), _age_s(page, item))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Collection[str]) -> None:
        """Also of what is not there."""
        left = list(keys)
        while left:
            batch, left = left[:DELETE_KEYS_MAX], left[DELETE_KEYS_MAX:]
            objects = [{"Key": f"{self._prefix}{key}"} for key in batch]
            answer = self._ask("DeleteObjects", None, Delete={"Objects": objects, "Quiet": True})
            if refused := answer.get("Errors"):
                raise BucketError("DeleteObjects", str(refused[0]["Key"]), str(refused[0]["Code"]))

    def begin_upload(self, key: str) -> str:
        answer = self._ask("CreateMultipartUpload", key, ChecksumAlgorithm="CRC32C")
        return str(answer["UploadId"])

    def send_part(self, key: str, upload: str, number: int, content: bytes) -> SentPart:
        checksum = crc32c_of(content)
        answer = self._ask(
            "UploadPart",
            key,
            UploadId=upload,
            PartNumber=number,
            Body=content,
            ChecksumCRC32C=checksum,
        )
        return SentPart(number, str(answer["ETag"]), checksum)

    def finish_upload(self, key: str, upload: str, parts: Sequence[SentPart]) -> None:
        """Only now the object is there, whole."""
        named = [
            {"PartNumber": part.number, "ETag": part.etag, "ChecksumCRC32C": part.crc32c}
            for part in parts
        ]
        self._ask("CompleteMultipartUpload", key, UploadId=upload, MultipartUpload={"Parts": named})

    def abandon_upload(self, key: str, upload: str) -> None:
        self._ask("AbortMultipartUpload", key, UploadId=upload)

    def unfinished_uploads(self, older_than_s: float) -> Iterator[tuple[str, str]]:
        """Key and id of uploads that nobody finished, first page: the next call sees the rest."""
        page = self._ask("ListMultipartUploads", None, Prefix=f"{self._prefix}blobs/")
        for item in page.get("Uploads", ()):
            if _age_s(page, {"LastModified": item["Initiated"]}) >= older_than_s:
                yield str(item["Key"]).removeprefix(self._prefix), str(item["UploadId"])

    def _ask(self, operation: str, key: str | None, **request: object) -> Any:  # botocore's answer
        if key is not None:
            request["Key"] = f"{self._prefix}{key}"
        method: Callable[..., Any] = getattr(self._client, _METHODS[operation])
        try:
            return method(Bucket=self.name, **request)
        except ClientError as error:
            details = error.response.get("Error") or {}
            raise BucketError(operation, key or "", str(details.get("Code"))) from error
        except (BotoCoreError, HTTPError) as error:
            raise BucketError(operation, key or "", type(error).__name__) from error


class Body(Readable):
    """An answer's body, whose faults are BucketErrors."""

    def __init__(self, body: Any, key: str) -> None:  # botocore's StreamingBody
        self._body = body
        self._key = key

    def read(self, size: int, /) -> bytes:
        """Less than `size` only at the end."""
        try:
            return bytes(self._body.read(size))
        except (BotoCoreError, HTTPError, OSError) as error:
            raise BucketError("GetObject", self._key, type(error).__name__) from error

    def close(self) -> None:
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def crc32c_of(content: bytes) -> str:
    return base64.b64encode(awscrt.checksums.crc32c(content).to_bytes(4, "big")).decode()


def _whole(body: Body) -> bytes:
    pieces = []
    while piece := body.read(1024 * 1024):
        pieces.append(piece)
    return b"".join(pieces)


def _absent(error: BucketError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and (
        (cause.response.get("Error") or {}).get("Code") in _ABSENT
    )


def _age_s(answer: Any, item: Any) -> float:
    modified: datetime = item["LastModified"]
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    now_s = email.utils.parsedate_to_datetime(date).timestamp() if date else time.time()
    return max(0.0, now_s - modified.timestamp())


_METHODS = {
    "PutObject": "put_object",
    "GetObject": "get_object",
    "HeadObject": "head_object",
    "ListObjectsV2": "list_objects_v2",
    "DeleteObjects": "delete_objects",
    "CreateMultipartUpload": "create_multipart_upload",
    "UploadPart": "upload_part",
    "CompleteMultipartUpload": "complete_multipart_upload",
    "AbortMultipartUpload": "abort_multipart_upload",
    "ListMultipartUploads": "list_multipart_uploads",
}
