"""A small S3 and STS of ours that misbehaves on order: what a real server cannot be made to do.

It checks no signature; it records what it is asked, so that tests can assert the external id, the session
policy, the ranges and the conditions that were sent.
"""

import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

from weighbridge.ingest.s3.policies import WRONG_EXTERNAL_ID

CHUNK_BYTES = 64 * 1024
STALL_S = 4.0
"""Longer than a test lets a reader wait for a byte."""


@dataclass(slots=True)
class Asked:
    """One GET of an object, as it came."""

    key: str
    start: int
    end: int
    if_match: str
    token: str


@dataclass(frozen=True, slots=True)
class Request:
    """Any request: `operation` in the words of the API, `form` is an STS request's body."""

    operation: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    form: Mapping[str, str]


@dataclass(slots=True)
class S3Stub:
    """`fault(asked, number)` names what goes wrong with the number-th object GET (from 0), or returns "".

    `refusal(request)` may answer any request with a status and an S3 error code instead. `head_members` are
    more headers of an object's HEAD; an empty one is left out. `page(query)` may answer a listing.
    """

    endpoint_url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    fault: Callable[[Asked, int], str] = lambda asked, number: ""
    list_pages: list[str] = field(default_factory=list)
    page: Callable[[Mapping[str, str]], str | None] = lambda query: None
    refusal: Callable[["Request"], tuple[int, str] | None] = lambda request: None
    head_members: dict[str, dict[str, str]] = field(default_factory=dict)
    storage_classes: dict[str, str] = field(default_factory=dict)
    identity: str = "arn:aws:sts::210987654321:assumed-role/weighbridge/session"
    credentials_s: float = 3600.0
    bytes_per_s: float = 0.0
    roles_are_closed: bool = True
    connections: int = 0
    gets: list[Asked] = field(default_factory=list)
    roles: list[Mapping[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def running_stub(tls: ssl.SSLContext | None = None) -> Iterator[S3Stub]:
    stub = S3Stub()

    class Bound(_Requests):
        state = stub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    stub.endpoint_url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: S3Stub

    def setup(self) -> None:
        with self.state.lock:
            self.state.connections += 1
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        if self.refused(form["Action"], form):
            return
        if form["Action"] == "GetCallerIdentity":
            self.answer(
                200,
                "<GetCallerIdentityResponse><GetCallerIdentityResult>"
                f"<Arn>{self.state.identity}</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>",
            )
            return
        if form.get("ExternalId") == WRONG_EXTERNAL_ID and self.state.roles_are_closed:
            error = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            self.answer(403, f"<E>{error}</E>")
            return
        self.state.roles.append(form)
        ends = datetime.now(UTC) + timedelta(seconds=self.state.credentials_s)  # noqa: TID251
        credentials = {
            "AccessKeyId": "STUBKEY",
            "SecretAccessKey": "stub-secret",
            "SessionToken": f"token-{len(self.state.roles)}",
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in credentials.items())
        self.answer(
            200,
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
            f"<Credentials>{inner}</Credentials></AssumeRoleResult></AssumeRoleResponse>",
        )

    def refused(self, operation: str, form: Mapping[str, str] | None = None) -> bool:
        """Answer as the test wants it, if it does."""
        url = urlsplit(self.path)
        query = {
            name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        refusal = self.state.refusal(
            Request(operation, self.key(), query, dict(self.headers), form or {})
        )
        if refusal is None:
            return False
        status, code = refusal
        if self.command == "HEAD":
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            code, _, message = code.partition(": ")
            error = f"<Error><Code>{code}</Code><Message>{message or 'no'}</Message></Error>"
            self.answer(status, f"<E>{error}</E>" if form else error)
        return True

    def do_HEAD(self) -> None:
        key = self.key()
        if self.refused("HeadObject"):
            return
        if key not in self.state.objects:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.state.objects[key]
        self.send_response(200)
        members = {"Content-Length": str(len(content)), "ETag": etag_of(content)}
        if key in self.state.checksums:
            members["x-amz-checksum-crc64nvme"] = self.state.checksums[key]
            members["x-amz-checksum-type"] = "FULL_OBJECT"
        for name, value in (members | self.state.head_members.get(key, {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            if not self.refused("ListObjectsV2"):
                page = self.state.page({name: values[0] for name, values in query.items()})
                if page is None:
                    self.list_page(query.get("prefix", [""])[0])
                else:
                    self.answer(200, page)
            return
        if "location" in parse_qs(urlsplit(self.path).query, keep_blank_values=True):
            if not self.refused("GetBucketLocation"):
                self.answer(200, "<LocationConstraint>eu-west-1</LocationConstraint>")
            return
        if self.refused("GetObject"):
            return
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        token = self.headers.get("X-Amz-Security-Token", "")
        asked = Asked(self.key(), int(first), int(last) + 1, self.headers["If-Match"], token)
        with self.state.lock:
            number = len(self.state.gets)
            self.state.gets.append(asked)
        try:
            self.serve(asked, self.state.fault(asked, number))
        except ConnectionError:
            self.close_connection = True  # a reader that was stopped hangs up

    def serve(self, asked: Asked, fault: str) -> None:
        content = self.state.objects.get(asked.key)
        if fault.isdigit():
            code = {"503": "SlowDown", "500": "InternalError", "400": "ExpiredToken"}[fault]
            self.answer(int(fault), f"<Error><Code>{code}</Code><Message>no</Message></Error>")
        elif content is None:
            self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")
        elif asked.if_match != etag_of(content):
            self.answer(412, "<Error><Code>PreconditionFailed</Code></Error>")
        elif fault == "reset":
            self.close_connection = True
        elif fault == "error body":
            self.answer(200, "<Error><Code>InternalError</Code><Message>late</Message></Error>")
        elif fault == "redirect":
            self.send_response(307)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.body(asked, content, fault)

    def body(self, asked: Asked, content: bytes, fault: str) -> None:
        whole = fault == "range ignored"
        part = content if whole else content[asked.start : asked.end]
        self.send_response(200 if whole else 206)
        self.send_header("ETag", '"other"' if fault == "other etag" else etag_of(content))
        if fault == "last answer":
            self.send_header("Connection", "close")
        if fault == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if fault == "no length":
            self.close_connection = True
        else:
            more = {"long": 1, "length short": -1}.get(fault, 0)
            self.send_header("Content-Length", str(len(part) + more))
        if not whole:
            shift = 1 if fault == "other range" else 0
            span = f"{asked.start + shift}-{asked.end - 1}"
            self.send_header("Content-Range", f"bytes {span}/{len(content)}")
        self.end_headers()
        if fault == "stall":
            time.sleep(STALL_S)
            self.close_connection = True
            return
        if fault == "short":
            part = part[: len(part) // 2]
            self.close_connection = True
        if fault == "wrong" and len(part) > 1000:
            part = part[:-1] + bytes([part[-1] ^ 1])
        for at in range(0, len(part), CHUNK_BYTES):
            chunk = part[at : at + CHUNK_BYTES]
            self.wfile.write(chunk)
            if self.state.bytes_per_s:
                time.sleep(len(chunk) / self.state.bytes_per_s)

    def list_page(self, prefix: str) -> None:
        if self.state.list_pages:
            self.answer(200, self.state.list_pages[0])
            return
        contents = "".join(
            f"<Contents><Key>{quote(key, safe='/')}</Key><Size>{len(content)}</Size><ETag>x</ETag>"
            f"<StorageClass>{self.state.storage_classes.get(key, 'STANDARD')}</StorageClass></Contents>"
            for key, content in sorted(self.state.objects.items())
            if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
        )
        folders = {
            key[: key.index("/", len(prefix)) + 1]
            for key in self.state.objects
            if key.startswith(prefix) and "/" in key.removeprefix(prefix)
        }
        beneath = "".join(
            f"<CommonPrefixes><Prefix>{quote(name, safe='/')}</Prefix></CommonPrefixes>"
            for name in sorted(folders)
        )
        encoded = "<EncodingType>url</EncodingType>"
        self.answer(200, listing(encoded + contents + beneath))

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def key(self) -> str:
        """Path-style: /bucket/key; empty for the bucket itself and for STS."""
        return "/".join(unquote(urlsplit(self.path).path).split("/")[2:])


@cache
def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def listing(contents: str, token: str = "") -> str:
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = "true" if token else "false"
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{truncated}</IsTruncated>{more}{contents}</ListBucketResult>"
    )
