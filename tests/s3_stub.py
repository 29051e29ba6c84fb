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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

CHUNK_BYTES = 64 * 1024


@dataclass(slots=True)
class Asked:
    """One GET of an object, as it came."""

    key: str
    start: int
    end: int
    if_match: str
    token: str


@dataclass(slots=True)
class S3Stub:
    """`fault(asked, number)` names what goes wrong with the number-th object GET (from 0), or returns ""."""

    endpoint_url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    fault: Callable[[Asked, int], str] = lambda asked, number: ""
    list_pages: list[str] = field(default_factory=list)
    credentials_s: float = 3600.0
    bytes_per_s: float = 0.0
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

    def do_HEAD(self) -> None:
        key = self.key()
        if key not in self.state.objects:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.state.objects[key]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", etag_of(content))
        if key in self.state.checksums:
            self.send_header("x-amz-checksum-crc64nvme", self.state.checksums[key])
            self.send_header("x-amz-checksum-type", "FULL_OBJECT")
        self.end_headers()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self.list_page(query["prefix"][0])
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
        else:
            self.body(asked, content, fault)

    def body(self, asked: Asked, content: bytes, fault: str) -> None:
        whole = fault == "range ignored"
        part = content if whole else content[asked.start : asked.end]
        self.send_response(200 if whole else 206)
        self.send_header("ETag", etag_of(content))
        self.send_header("Content-Length", str(len(part)))
        if not whole:
            shift = 1 if fault == "other range" else 0
            span = f"{asked.start + shift}-{asked.end - 1}"
            self.send_header("Content-Range", f"bytes {span}/{len(content)}")
        self.end_headers()
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
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>x</ETag></Contents>"
            for key, content in sorted(self.state.objects.items())
            if key.startswith(prefix)
        )
        self.answer(200, listing(contents))

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def key(self) -> str:
        """Path-style: /bucket/key."""
        return unquote(urlsplit(self.path).path).split("/", 2)[2]


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def listing(contents: str, token: str = "") -> str:
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = "true" if token else "false"
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{truncated}</IsTruncated>{more}{contents}</ListBucketResult>"
    )
