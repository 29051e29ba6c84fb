"""A customer's folder as the sync reads it: list, pin, and ranged reads that fail rather than mix two revisions.

All calls block. They retry inside the limits of reliability B1 and stop when the pulse is stopped.
"""

import http.client
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NoReturn, TypeVar

import structlog
import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from weighbridge.errors import InvalidError
from weighbridge.ingest.content import stated_checksums
from weighbridge.ingest.model import ListedObject, PinnedFile, SyncLimits
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.s3.access import LOOKS_PARALLEL, S3Access
from weighbridge.ingest.s3.faults import (
    UNREADABLE,
    Retry,
    SourceError,
    archived,
    source_changed,
    translate,
)
from weighbridge.ingest.s3.policies import Reader
from weighbridge.ingest.s3.wire import Body, WiredClient
from weighbridge.weights.safetensors import LENGTH_BYTES, header_length, parse_header
from weighbridge.weights.tensors import TensorSpec

log = structlog.get_logger()

CHUNK_BYTES = 1024 * 1024
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
_FAULTS = (
    ClientError,
    BotoCoreError,
    SourceError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)
_ARCHIVES = frozenset(["GLACIER", "DEEP_ARCHIVE"])
HEAD_BYTES = 64 * 1024
"""First read of a tensor file: most headers are shorter, and what is read beyond them is lost."""

Result = TypeVar("Result")
Item = TypeVar("Item")


class Source:
    """One reader's view of one folder; its client renews the role's credentials by itself."""

    def __init__(
        self,
        access: S3Access,
        reader: Reader,
        limits: SyncLimits,
        pulse: Pulse,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._access = access
        self._reader = reader
        self._limits = limits
        self._pulse = pulse
        self._jitter = jitter
        self._lock = threading.Lock()
        self._client: Any = None  # botocore builds client classes at run time
        self._ask_version = True

    @property
    def pulse(self) -> Pulse:
        return self._pulse

    @property
    def reader(self) -> Reader:
        return self._reader

    def list_folder(self) -> tuple[list[ListedObject], list[str]]:
        """The objects directly in the folder, and its sub-folders' names. SourceError TOO_LARGE, LISTING_LOOPS."""
        objects: dict[str, ListedObject] = {}
        folders: list[str] = []
        for page in self._pages():
            for item in page.get("Contents", ()):
                listed = ListedObject(item["Key"], int(item["Size"]), str(item.get("ETag", "")))
                if objects.setdefault(listed.key, listed) is not listed:
                    self._refuse_listing("names an object twice")
                if not listed.key.startswith(self._reader.source.folder):
                    self._refuse_listing("names an object outside the folder")
            folders += [str(item["Prefix"]) for item in page.get("CommonPrefixes", ())]
            if len(objects) + len(folders) > self._limits.objects_max:
                raise SourceError(
                    f"{self._reader.source} holds more than {self._limits.objects_max} objects. "
                    "Put the model's files into a folder of their own.",
                    code="TOO_LARGE",
                )
        return list(objects.values()), folders

    def may_list(self) -> bool:
        """False when the reader is refused; any other fault is raised."""
        try:
            self._list_page(None)
        except SourceError as error:
            if error.code in {"ROLE_ACCESS_DENIED", "LIST_ACCESS_DENIED"}:
                return False
            raise
        return True

    def pin(self, item: ListedObject, path: str) -> PinnedFile:
        """The object as it is now, by HEAD: what all later reads insist on. SourceError ARCHIVED, SOURCE_CHANGED."""
        answer = self._ask(
            "HeadObject",
            item.key,
            lambda client: client.head_object(
                Bucket=self._reader.source.bucket, Key=item.key, ChecksumMode="ENABLED"
            ),
        )
        restored = 'ongoing-request="false"' in answer.get("Restore", "")
        if (answer.get("StorageClass") in _ARCHIVES and not restored) or answer.get(
            "ArchiveStatus"
        ):
            raise archived(self._uri(item.key))
        if not answer.get("ETag"):
            raise _protocol(self._uri(item.key), "HEAD without an ETag")
        if answer.get("ContentLength") is None:
            raise _protocol(self._uri(item.key), "HEAD without a size")
        version = answer.get("VersionId")
        return PinnedFile(
            key=item.key,
            path=path,
            size_bytes=int(answer["ContentLength"]),
            etag=answer["ETag"],
            s3_version_id=None if version == "null" else version,
            checksum=stated_checksums(answer, partial(self._first_part_bytes, item.key)),
        )

    def _first_part_bytes(self, key: str) -> int:
        answer = self._ask(
            "HeadObject",
            key,
            lambda client: client.head_object(
                Bucket=self._reader.source.bucket, Key=key, PartNumber="1"
            ),
        )
        return int(answer.get("ContentLength") or 0)

    def each(self, call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`call` of each item, some at a time, in order; the first failure stops the rest."""
        with ThreadPoolExecutor(LOOKS_PARALLEL, thread_name_prefix="source") as pool:
            futures = [pool.submit(call, item) for item in items]
            try:
                return [future.result() for future in futures]
            except Exception as error:
                self._pulse.stop(error)
                pool.shutdown(cancel_futures=True)
                raise

    def header(self, file: PinnedFile) -> Sequence[TensorSpec]:
        """The tensors of a safetensors file, from its first bytes alone. InvalidError ST_…"""
        head = self.read(file, 0, HEAD_BYTES)
        try:
            end = LENGTH_BYTES + header_length(head)
            if end > len(head):
                head += self.read(file, len(head), end)
            return parse_header(head, file.size_bytes)
        except InvalidError as error:
            raise InvalidError(f"{file.path}: {error.message}", code=error.code) from error

    def read(self, file: PinnedFile, start: int, end: int) -> bytes:
        """Bytes [start, end) at once; for small ranges such as headers and JSON files."""
        memory = bytearray(min(end, file.size_bytes) - start)
        left = memoryview(memory)

        def room(size: int) -> memoryview:
            return left[:size]

        for piece in self.stream(file, start, start + len(memory), room):
            left = left[len(piece) :]
        return bytes(memory)

    def stream(
        self, file: PinnedFile, start: int, end: int, room: Callable[[int], memoryview]
    ) -> Iterator[memoryview]:
        """Bytes [start, end) piece by piece, read straight into what `room(size)` gives for the next ones.

        `room` is asked for at most CHUNK_BYTES and may give less; a broken body goes on where it broke.
        """
        at, failures, since = start, 0, self._pulse.now()
        while at < end:
            self._pulse.check()
            try:
                stop = min(end, at + self._limits.part_bytes)
                with closing(self._open(file, at, stop)) as body:
                    while at < stop:
                        view = room(min(CHUNK_BYTES, stop - at))
                        count = _read_into(body, view)
                        if count == 0:
                            raise http.client.IncompleteRead(b"", stop - at)
                        self._pulse.beat(count)
                        self._pulse.check()
                        at, failures, since = at + count, 0, self._pulse.now()
                        yield view[:count]
            except _FAULTS as error:
                failures += 1
                if _throttled(error):
                    self._pulse.slow_down()
                fault = translate(error, self._reader, "GetObject", file.key)
                self._hold(fault, failures, since)

    def _open(self, file: PinnedFile, at: int, end: int) -> Body | StreamingBody:
        request = {
            "Bucket": self._reader.source.bucket,
            "Key": file.key,
            "Range": f"bytes={at}-{end - 1}",
            "IfMatch": file.etag,
        }
        if file.s3_version_id is None or not self._ask_version:
            answer = self._current_client().get_object(**request)
        else:
            answer = self._open_version(request, file.s3_version_id)
        self._check_range(answer, file, at, end)
        body: Body | StreamingBody = answer["Body"]
        return body

    def _open_version(self, request: Mapping[str, str], version_id: str) -> Any:
        client = self._current_client()
        try:
            return client.get_object(**request, VersionId=version_id)
        except ClientError as error:
            fault = translate(error, self._reader, "GetObject", request["Key"])
            if fault.code != "GET_ACCESS_DENIED":
                raise
            # s3:GetObjectVersion may be missing where s3:GetObject is granted; the ETag still pins the bytes.
            answer = client.get_object(**request)
            self._ask_version = False
            log.warning("sync.version_reads_denied", source=str(self._reader.source))
            return answer

    def _check_range(self, answer: Mapping[str, Any], file: PinnedFile, at: int, end: int) -> None:
        """The answer is the range asked, of the object pinned; anything else closes its connection."""
        try:
            _, _, total = answer.get("ContentRange", "").partition("/")
            if answer.get("ETag", file.etag) != file.etag or total not in (
                str(file.size_bytes),
                "",
            ):
                raise source_changed(self._uri(file.key))
            if answer["ResponseMetadata"]["HTTPStatusCode"] != 206 or not total:
                raise _protocol(self._uri(file.key), "a ranged GET with the whole object")
            expected = f"bytes {at}-{end - 1}/{file.size_bytes}"
            if answer["ContentRange"] != expected or answer.get("ContentLength") != end - at:
                raise _protocol(self._uri(file.key), "a ranged GET with another range")
        except SourceError:
            answer["Body"].close()
            raise

    def _pages(self) -> Iterator[Any]:
        token: str | None = None
        tokens: set[str] = set()
        for _ in range(self._limits.pages_max):
            page = self._list_page(token)
            yield page
            token = page.get("NextContinuationToken") if page.get("IsTruncated") else None
            if token is None:
                return
            if token in tokens:
                self._refuse_listing("comes back to a page it had given")
            tokens.add(token)
        self._refuse_listing(f"has more than {self._limits.pages_max} pages")

    def _list_page(self, token: str | None) -> Any:
        more = {} if token is None else {"ContinuationToken": token}
        return self._ask(
            "ListObjectsV2",
            None,
            lambda client: client.list_objects_v2(
                Bucket=self._reader.source.bucket,
                Prefix=self._reader.source.folder,
                Delimiter="/",
                **more,
            ),
        )

    def _ask(self, operation: str, key: str | None, call: Callable[[Any], Result]) -> Result:
        failures, since = 0, self._pulse.now()
        while True:
            self._pulse.check()
            try:
                answer = call(self._current_client())
            except (*_FAULTS, *UNREADABLE) as error:
                failures += 1
                if _throttled(error):
                    self._pulse.slow_down()
                self._hold(translate(error, self._reader, operation, key), failures, since)
            else:
                self._pulse.beat()
                return answer

    def _current_client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = WiredClient(
                    self._access.client(self._reader), self._reader.source.bucket
                )
            return self._client

    def _hold(self, fault: SourceError, failures: int, since: float) -> None:
        """Wait before the next try, or raise what ends the sync."""
        match fault.retry:
            case Retry.NEVER | Retry.DISK:
                raise fault
            case Retry.ACCESS:
                if self._pulse.now() - since >= self._limits.access_retry_s:
                    raise fault
            case Retry.TRANSIENT:
                if self._pulse.idle_s() >= self._limits.stall_s:
                    raise self._stalled(fault)
        if fault.code == "TOKEN_EXPIRED":
            with self._lock:
                self._client = None
        log.info(
            "sync.retry",
            source=str(self._reader.source),
            code=fault.code,
            failures=failures,
            reason=fault.message,
        )
        self._pulse.add_retry()
        wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))
        self._pulse.pause(wait_s * (0.5 + self._jitter() / 2))

    def _stalled(self, fault: SourceError) -> SourceError:
        if not self._pulse.received:
            return fault
        return SourceError(
            f"No byte came from {self._reader.source} for {self._limits.stall_s:.0f} s; last: {fault.message}",
            code="STALLED",
        )

    def _uri(self, key: str) -> str:
        return f"s3://{self._reader.source.bucket}/{key}"

    def _refuse_listing(self, reason: str) -> NoReturn:
        raise SourceError(
            f"The listing of {self._reader.source} {reason}; the S3 service is at fault.",
            code="LISTING_LOOPS",
        )


def _throttled(error: Exception) -> bool:
    """The service asked for fewer requests (503 SlowDown, 429)."""
    if not isinstance(error, ClientError):
        return False
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (429, 503)


def _read_into(body: Body | StreamingBody, view: memoryview) -> int:
    """Without a copy from our own wire; botocore's body may buffer, check and unpack, so it is read its own way."""
    if isinstance(body, Body):
        return body.readinto(view)
    chunk = body.read(len(view))
    view[: len(chunk)] = chunk
    return len(chunk)


def _protocol(what: str, reason: str) -> SourceError:
    return SourceError(
        f"The S3 service answered {reason} for {what}; such a service cannot be read safely.",
        code="S3_PROTOCOL",
    )
