"""The two requests a sync makes by the thousand, GET of a range and HEAD, over kept connections without botocore.

botocore stays in charge of all else: credentials and their renewal, the endpoint's address, every other call.
"""

import http.client
import os
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import botocore.parsers
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HeadersDict
from botocore.exceptions import ClientError, EndpointConnectionError, SSLError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from weighbridge.ingest.s3.signing import Signer, encoded_path
from weighbridge.ingest.tls.opening import tls_of

ERROR_BYTES_MAX = 64 * 1024
IDLE_CONNECTIONS_MAX = 64
EXPRESS_SUFFIX = "--x-s3"
"""Directory buckets sign with sessions of their own."""

PROBE_KEY = "k"
_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/s3/aws4_request,")

_MEMBERS = {
    "etag": "ETag",
    "content-range": "ContentRange",
    "x-amz-version-id": "VersionId",
    "x-amz-storage-class": "StorageClass",
    "x-amz-archive-status": "ArchiveStatus",
    "x-amz-restore": "Restore",
    "x-amz-checksum-type": "ChecksumType",
    "x-amz-checksum-crc64nvme": "ChecksumCRC64NVME",
    "x-amz-checksum-crc32c": "ChecksumCRC32C",
    "x-amz-checksum-crc32": "ChecksumCRC32",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-checksum-sha1": "ChecksumSHA1",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "SSEKMSKeyId",
    "x-amz-mp-parts-count": "PartsCount",
}
"""Headers of an answer and the names botocore gives them."""

_HEADERS = {"Range": "range", "IfMatch": "if-match", "ChecksumMode": "x-amz-checksum-mode"}
_QUERY = {"VersionId": "versionId", "PartNumber": "partNumber"}


class WiredClient:
    """A botocore S3 client whose `get_object` and `head_object` of one bucket go over the wire directly.

    Both raise what botocore's would; a body has `readinto`. Use from any thread.
    """

    def __init__(
        self, client: Any, bucket: str
    ) -> None:  # botocore makes client classes at run time
        self._client = client
        self._bucket = bucket
        self._wire = _wire(client, bucket)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_object(self, **request: str) -> Mapping[str, Any]:
        if self._wire is None or request["Bucket"] != self._bucket:
            answer: Mapping[str, Any] = self._client.get_object(**request)
            return answer
        return self._wire.ask("GetObject", "GET", request)

    def head_object(self, **request: str) -> Mapping[str, Any]:
        if self._wire is None or request["Bucket"] != self._bucket:
            answer: Mapping[str, Any] = self._client.head_object(**request)
            return answer
        answer = self._wire.ask("HeadObject", "HEAD", request)
        answer["Body"].read()  # empty; the connection is free for the next request only after it
        answer["Body"].close()
        return answer


class Body:
    """The body of one answer; closed after its last byte it leaves its connection to the next request."""

    def __init__(
        self, wire: "_Wire", kept: http.client.HTTPConnection, answer: http.client.HTTPResponse
    ) -> None:
        self._wire = wire
        self._kept: http.client.HTTPConnection | None = kept
        self._answer = answer

    def readinto(self, view: memoryview) -> int:
        """Fill `view`, less only at the end of the body."""
        return self._answer.readinto(view)

    def read(self, size: int | None = None) -> bytes:
        return self._answer.read(size)

    def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            return
        if self._answer.isclosed() and not self._answer.will_close:
            self._wire.keep(kept)
        else:
            # An answer without a length has taken the socket over.
            self._answer.close()
            kept.close()


class _Wire:
    def __init__(self, base: str, signer: Signer, timeouts_s: tuple[float, float]) -> None:
        parts = urlsplit(base)
        self._base = base
        self._host = parts.netloc
        self._path = parts.path.rstrip("/")
        self._signer = signer
        self._connect_s, self._read_s = timeouts_s
        try:
            self._tls = tls_of(_ca_bundle()) if parts.scheme == "https" else None
        except OSError as error:  # as ssl.SSLError is one
            raise SSLError(endpoint_url=base, error=error) from error
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    def keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def ask(self, operation: str, method: str, request: Mapping[str, str]) -> Mapping[str, Any]:
        query = {word: request[name] for name, word in _QUERY.items() if name in request}
        asked = {word: request[name] for name, word in _HEADERS.items() if name in request}
        path = f"{self._path}/{encoded_path(request['Key'])}"
        target, headers = self._signer.sign(method, self._host, path, query, asked)
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            try:
                return self._exchange(kept, operation, method, target, headers)
            except (ConnectionError, http.client.RemoteDisconnected):
                kept.close()  # the other side had hung up since; nothing was answered
        return self._exchange(self._connect(), operation, method, target, headers)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        operation: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
    ) -> Mapping[str, Any]:
        try:
            connection.request(method, target, headers=headers)
            answer = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        body = Body(self, connection, answer)
        if answer.status >= 300:
            try:
                raise _refusal(operation, answer)
            finally:
                body.close()
        found: dict[str, Any] = {  # as botocore shapes it
            "Body": body,
            "ResponseMetadata": {"HTTPStatusCode": answer.status},
        }
        for name, value in answer.getheaders():
            if member := _MEMBERS.get(name.lower()):
                found[member] = value
        length = answer.getheader("Content-Length", "")
        if length.isdecimal():
            found["ContentLength"] = int(length)
        return found

    def _connect(self) -> http.client.HTTPConnection:
        host = urlsplit(self._base).hostname or ""
        port = urlsplit(self._base).port
        made = http.client.HTTPConnection(host, port or (443 if self._tls else 80))
        made.auto_open = 0  # a closed connection is not opened again, and never without TLS
        try:
            raw = socket.create_connection((host, made.port), self._connect_s)
        except OSError as error:
            raise EndpointConnectionError(endpoint_url=self._base, error=error) from error
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            made.sock = raw if self._tls is None else self._tls.connect(raw, host, self._connect_s)
        except ssl.SSLError as error:
            raw.close()
            raise SSLError(endpoint_url=self._base, error=error) from error
        except OSError as error:
            raw.close()
            raise EndpointConnectionError(endpoint_url=self._base, error=error) from error
        made.sock.settimeout(self._read_s)
        return made


def _close_all(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _wire(client: Any, bucket: str) -> _Wire | None:
    """None where botocore alone knows the way: through a proxy, or with another signature than version 4."""
    credentials = client._get_credentials()  # noqa: SLF001 - the renewing credentials have no public name
    if credentials is None or bucket.endswith(EXPRESS_SUFFIX):
        return None
    probe = _probe(client, bucket)
    base = probe.url.partition("?")[0].removesuffix(f"/{PROBE_KEY}")
    authorization = probe.headers.get("Authorization", b"")
    scope = _SCOPE.match(_text(authorization))
    if scope is None or get_environ_proxies(base):
        return None
    config = client.meta.config
    return _Wire(
        base,
        Signer(credentials.get_frozen_credentials, scope[1]),
        (config.connect_timeout, config.read_timeout),
    )


def _probe(client: Any, bucket: str) -> AWSPreparedRequest:
    """A request as botocore would send it: its rules choose the address and the region. Nothing is sent."""
    seen: list[AWSPreparedRequest] = []

    def capture(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        seen.append(request)
        headers: Any = HeadersDict({})  # what botocore itself passes here
        return AWSResponse(request.url, 200, headers, _Nothing())

    event = "before-send.s3.HeadObject"
    client.meta.events.register_first(event, capture)
    try:
        client.head_object(Bucket=bucket, Key=PROBE_KEY)
    finally:
        client.meta.events.unregister(event, capture)
    return seen[0]


def _ca_bundle() -> str:
    """Chosen as botocore does."""
    chosen = botocore.session.get_session().get_config_variable("ca_bundle")
    return str(chosen or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(verify=True))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


class _Nothing:
    def stream(self) -> Iterator[bytes]:
        return iter(())


def _refusal(operation: str, answer: http.client.HTTPResponse) -> ClientError:
    """The error answer as botocore would raise it."""
    parser: Any = botocore.parsers.create_parser("rest-xml")  # errors need no shape
    parsed = parser.parse(
        {
            "status_code": answer.status,
            "headers": HeadersDict(answer.getheaders()),
            "body": answer.read(ERROR_BYTES_MAX),
        },
        None,
    )
    return ClientError(parsed, operation)
