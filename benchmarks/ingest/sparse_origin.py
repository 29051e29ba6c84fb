"""An S3 origin for benchmarks in a process of its own: objects are a header and a size, the rest is zeros.

    with running_origin(objects, delay_s=0.03) as origin:
        origin.url, origin.bytes_sent()

It checks no signature and answers what a weight sync asks: AssumeRole, ListObjectsV2, HEAD, ranged GET.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import urlopen
from xml.sax.saxutils import escape

PIECE_BYTES = 256 * 1024
ROOT = Path(__file__).parents[2]
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
ROLE_ANSWER = (
    "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ORIGIN</AccessKeyId>"
    "<SecretAccessKey>origin</SecretAccessKey><SessionToken>token</SessionToken>"
    "<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
)


@dataclass(frozen=True, slots=True)
class SparseObject:
    """`head` is how the object begins; the rest of its `size_bytes` reads as zeros.

    `crc64nvme` is stated as the checksum of the whole.
    """

    head: bytes
    size_bytes: int
    crc64nvme: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    url: str

    def bytes_sent(self) -> int:
        """Bytes of all bodies so far; asking resets the count."""
        with urlopen(f"{self.url}/-/sent", timeout=60) as answer:
            return int(answer.read())


@contextmanager
def running_origin(
    objects: Mapping[str, SparseObject], *, delay_s: float = 0.0
) -> Iterator[Origin]:
    """`objects` by key, the same in every bucket; each answer waits `delay_s`, as a far network would."""
    with tempfile.TemporaryDirectory(prefix="wb-origin-") as directory:
        for number, (key, item) in enumerate(objects.items()):
            path = Path(directory, f"{number:05}")
            path.write_bytes(item.head)
            os.truncate(path, item.size_bytes)
            path.with_suffix(".key").write_text(key)
            path.with_suffix(".crc").write_text(item.crc64nvme)
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ingest.sparse_origin", directory, str(delay_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Origin(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.stdin.close()
            process.wait(10)
            process.stdout.close()


class _Served(asyncio.Protocol):
    """One connection: one request at a time. A body goes out, and is counted, as fast as it is taken."""

    paths: Mapping[str, Path]
    delay_s: float
    sent = 0
    _body: Iterator[bytes] = iter(())
    _writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in lines[1:])
            }
            length = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            method, target, _ = lines[0].split(" ", 2)
            answer, body = self._answer(method, target, headers)
            asyncio.get_running_loop().call_later(self.delay_s, self._send, answer, body)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._body = iter(())

    def _send(self, answer: bytes, body: Iterator[bytes]) -> None:
        self._body = body
        self._transport.write(answer)
        self._go_on()

    def _go_on(self) -> None:
        while (
            self._writable
            and not self._transport.is_closing()
            and (piece := next(self._body, None)) is not None
        ):
            _Served.sent += len(piece)
            self._transport.write(piece)

    def _answer(
        self, method: str, target: str, headers: Mapping[str, str]
    ) -> tuple[bytes, Iterator[bytes]]:
        url = urlsplit(target)
        if url.path.startswith("/-/"):
            sent, _Served.sent = _Served.sent, 0
            return _message(200, str(sent).encode()), iter(())
        if method == "POST":
            return _message(200, ROLE_ANSWER.encode()), iter(())
        query = parse_qs(url.query)
        if "list-type" in query:
            listing = _message(200, self._listing(query["prefix"][0]))
            _Served.sent += len(listing)
            return listing, iter(())
        path = self.paths[unquote(url.path).split("/", 2)[2]]
        size = path.stat().st_size
        about = {"ETag": f'"{hashlib.md5(path.name.encode()).hexdigest()}"'}
        if checksum := path.with_suffix(".crc").read_text():
            about |= {"x-amz-checksum-crc64nvme": checksum}
        if method == "HEAD":
            return _message(200, b"", {**about, "Content-Length": str(size)}), iter(())
        first, _, last = headers["range"].removeprefix("bytes=").partition("-")
        end = min(size, int(last) + 1)
        about["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        about["Content-Length"] = str(end - int(first))
        return _message(206, b"", about), _pieces(path, int(first), end)

    def _listing(self, prefix: str) -> bytes:
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{path.stat().st_size}</Size></Contents>"
            for key, path in sorted(self.paths.items())
            if key.startswith(prefix)
        )
        return (
            f'<ListBucketResult xmlns="{NAMESPACE}"><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>'
        ).encode()


def _pieces(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        for at in range(start, end, PIECE_BYTES):
            yield file.read(min(PIECE_BYTES, end - at))


def _message(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} OK\r\n{head}\r\n".encode() + body


def _objects(directory: Path) -> Mapping[str, Path]:
    named = sorted(directory.glob("*.key"))
    return {file.read_text(): file.with_suffix("") for file in named}


async def _serve(delay_s: float) -> None:
    _Served.delay_s = delay_s
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Served, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends with its stdin, so it never outlives whoever started it.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    _Served.paths = _objects(Path(sys.argv[1]))
    asyncio.run(_serve(float(sys.argv[2])))
