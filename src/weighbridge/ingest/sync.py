"""One weight sync from its claim to its end: list, pin, verdict, fetch, publish (reliability B1, rows 3 to 9)."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from weighbridge.errors import InvalidError, StaleError, WeighbridgeError
from weighbridge.ingest import store
from weighbridge.ingest.base_model import read_wish
from weighbridge.ingest.content import check_header, check_staged
from weighbridge.ingest.model import PinnedFile, S3Prefix, SyncLimits, SyncOrder
from weighbridge.ingest.pump.fetch import fetch
from weighbridge.ingest.pump.room import Room
from weighbridge.ingest.pump.staged import FetchOrder, Whole
from weighbridge.ingest.pump.throttle import Throttles
from weighbridge.ingest.pump.turn import Turn, identity
from weighbridge.ingest.pump.writer import disk_fault
from weighbridge.ingest.s3 import bindings
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.faults import Retry, SourceError
from weighbridge.ingest.s3.policies import Reader
from weighbridge.ingest.s3.source import Source
from weighbridge.ingest.s3.survey import is_proven, pin_folder, read_headers, tensor_files
from weighbridge.ingest.watch import SyncCancelledError, Watch
from weighbridge.registry.model import SyncStatus
from weighbridge.storage import lease
from weighbridge.storage.database import Database
from weighbridge.storage.lease import Lease
from weighbridge.telemetry.histogram import Histogram
from weighbridge.weights.base import MissingBlobError, WeightStore
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.shard_index import INDEX_FILE
from weighbridge.weights.tensors import TensorSpec
from weighbridge.weights.verdict import Wish, judge

log = structlog.get_logger()

DISK_RETRY_S = 2.0
MANIFEST_LEASE_TTL_S = 120.0
MANIFEST_LEASE_TRIES_MAX = 300
PUBLISH_TRIES_MAX = 3
RECORD_TIMEOUT_S = 60.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SyncParts:
    """What every sync of a process works with."""

    database: Database
    store: WeightStore
    access: S3Access
    monotonic: Callable[[], float]
    limits: SyncLimits
    threads: ThreadPoolExecutor
    throttles: Throttles
    verdicts: Histogram


@dataclass(frozen=True, slots=True)
class _Checked:
    """The verdict: tensors by file, and the index to publish with them."""

    headers: Mapping[str, Sequence[TensorSpec]]
    index: bytes | None


class Sync:
    """One claim's work on one version; `run` ends it in a final state or raises StaleError, UnavailableError."""

    def __init__(self, parts: SyncParts, held: Lease, order: SyncOrder) -> None:
        self._parts = parts
        self._held = held
        self._order = order
        self._id = order.version_id
        self._watch = Watch(
            parts.database,
            held,
            self._id,
            monotonic=parts.monotonic,
            spent_s=order.spent_s,
            total_s=parts.limits.total_s,
        )
        self._room = Room(parts.store, parts.limits.disk_free_min_share)
        self._digests: dict[str, str] = {}
        self._current: Source | None = None
        self._log = log.bind(version_id=self._id, source=order.weight_uri, epoch=held.epoch)

    async def run(self) -> None:
        """Safe to interrupt anywhere: what is durable is found again by the next claim."""
        self._log.info("sync.started")
        try:
            async with self._watch:
                digest = await self._work()
        except SyncCancelledError as error:
            await self._finish(SyncStatus.CANCELLED, error)
        except StaleError:
            raise
        except (InvalidError, SourceError) as error:
            await self._finish(SyncStatus.ERROR, error)
        else:
            await self._sweep()
            self._log.info("sync.done", digest=digest, bytes=self._watch.pulse.bytes_done)

    async def _work(self) -> str:
        source, order = S3Prefix.parse(self._order.weight_uri), self._order
        reader = self._parts.access.reader(source, order.role_arn, order.external_id)
        if reader.role_arn is None:
            # T7 asks for a role per org; without one every org reads with the same identity.
            self._log.warning("sync.uses_own_credentials")
        await self._check_bucket(reader)
        base, wish = await self._in_thread(self._base)
        files = self._order.files or await self._snapshot(reader)
        tensors = tensor_files(files)
        self._watch.step = "check"
        checked = await self._in_thread(partial(self._check, self._source(reader), wish, files))
        self._log.info("sync.checked", files=len(tensors))
        for _ in range(PUBLISH_TRIES_MAX):
            await self._reuse(reader, tensors, checked)
            await self._fetch(reader, tensors, checked)
            try:
                return await self._publish(base, tensors, checked)
            except MissingBlobError as error:
                await self._forget(error.digest, tensors)
        raise SourceError(
            "The weight store lost files of this version thrice.", code="STORE_FAILED"
        )

    async def _check_bucket(self, reader: Reader) -> None:
        async with self._parts.database.begin() as tx:
            await bindings.require(tx, reader, self._order.org_id)
            asked = await bindings.needs_proof(tx, reader, self._order.org_id)
        access, limits = self._parts.access, self._parts.limits
        if asked and access.owner_is_proven:
            proof = partial(is_proven, access, reader, limits, self._watch.pulse)
            if not await self._in_thread(proof):
                raise bindings.unproven(reader)

    def _base(self) -> tuple[Manifest, Wish]:
        order = self._order
        return read_wish(self._parts.store, order.arch_id, order.base_digest, order.tensors)

    async def _snapshot(self, reader: Reader) -> Sequence[PinnedFile]:
        """List and pin once, and store it: every later read, of this claim or the next, is of these revisions (W3)."""
        self._watch.step = "list"
        pinned = await self._in_thread(partial(self._list_and_pin, self._source(reader)))
        totals = tensor_files(pinned)
        if (size := sum(file.size_bytes for file in totals)) > self._parts.limits.bytes_max:
            raise InvalidError(
                f"{reader.source} holds {size} bytes of weights; {self._parts.limits.bytes_max} is the most.",
                code="TOO_LARGE",
            )
        async with self._parts.database.begin() as tx:
            await bindings.bind(tx, reader, self._order.org_id)
            await store.record_snapshot(tx, self._held, self._id, pinned, totals=totals)
        self._log.info("sync.pinned", files=len(totals), bytes=size)
        return pinned

    def _list_and_pin(self, source: Source) -> list[PinnedFile]:
        pinned, ignored = pin_folder(source)
        for name, reason in list(ignored.items())[:20]:
            self._log.info("sync.ignored", name=name, reason=reason)
        return pinned

    def _check(self, source: Source, wish: Wish, files: Sequence[PinnedFile]) -> _Checked:
        headers = read_headers(source, files)
        verdict = judge(wish, headers)
        self._parts.verdicts.note(self._watch.age_s)
        verdict.require()
        return _Checked(headers.readable(), verdict.index)

    async def _reuse(
        self, reader: Reader, tensors: Sequence[PinnedFile], checked: _Checked
    ) -> None:
        """Find the files that are in the store already: of an earlier claim, or an earlier version of this org."""
        self._watch.pulse.set_done(0)
        self._digests.clear()
        await self._take(reader, tensors, checked)

    async def _take(
        self, reader: Reader, tensors: Sequence[PinnedFile], checked: _Checked
    ) -> Collection[str]:
        """Lease the blobs that are these files, and only then look for them (W8); returns the keys found."""
        keys = [file.key for file in tensors]
        async with self._parts.database.begin() as tx:
            known = await store.known_digests(
                tx, self._id, self._order.org_id, reader.source.bucket, keys
            )
            if known:
                await store.record_digests(tx, self._held, self._id, known)
        found = await self._in_thread(
            lambda: {
                file.key: known[file.key]
                for file in tensors
                if file.key in known
                and self._holds(known[file.key], file, checked.headers[file.path])
            }
        )
        if lost := known.keys() - found.keys():
            await self._record(dict.fromkeys(lost))
        if found:
            self._log.info("sync.reused", files=len(found))
        self._note(found)
        self._watch.pulse.add_done(sum(file.size_bytes for file in tensors if file.key in found))
        return found.keys()

    def _holds(self, digest: str, file: PinnedFile, specs: Sequence[TensorSpec]) -> bool:
        weights = self._parts.store
        if weights.blob_size(digest) != file.size_bytes:
            return False
        try:
            with closing(weights.open_blob(digest)) as content:
                check_header(file, specs, content)
        except (SourceError, FileNotFoundError):
            return False
        return True

    async def _fetch(
        self, reader: Reader, tensors: Sequence[PinnedFile], checked: _Checked
    ) -> None:
        self._watch.step = "fetch"
        loop = asyncio.get_running_loop()

        async def fetch_missing() -> None:
            if missing := [file for file in tensors if file.key not in self._digests]:
                orders = [self._fetch_order(reader, file, checked, loop) for file in missing]
                await self._in_thread(partial(self._fetch_now, self._source(reader), orders, loop))

        await self._while_disk_fails(fetch_missing)

    async def _while_disk_fails(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """A disk that is full or fails is waited for, within its limit; then it is the sync's SourceError."""
        since, most_done = self._parts.monotonic(), self._watch.pulse.bytes_done
        while True:
            done_before = self._watch.pulse.bytes_done
            try:
                return await attempt()
            except TimeoutError:
                raise  # of the database
            except (OSError, SourceError) as error:
                fault = disk_fault(error) if isinstance(error, OSError) else error
                if self._watch.pulse.bytes_done > most_done:  # it went on meanwhile
                    since, most_done = self._parts.monotonic(), self._watch.pulse.bytes_done
                waited_s = self._parts.monotonic() - since
                if fault.retry is not Retry.DISK or waited_s >= self._parts.limits.disk_wait_s:
                    raise fault from error
            self._log.warning("sync.waits_for_disk", code=fault.code, waited_s=round(waited_s))
            await asyncio.sleep(DISK_RETRY_S)
            self._watch.check()
            self._watch.restart(bytes_done=min(done_before, self._watch.pulse.bytes_done))

    def _fetch_order(
        self, reader: Reader, file: PinnedFile, checked: _Checked, loop: asyncio.AbstractEventLoop
    ) -> FetchOrder:
        """With a turn: of two syncs that want the same content, one fetches it, and the other uses that (W7)."""
        turn = Turn(self._parts.store, identity(self._order.org_id, reader.source.bucket, file))

        def here() -> bool:
            taking = self._take(reader, [file], checked)
            return bool(asyncio.run_coroutine_threadsafe(taking, loop).result(RECORD_TIMEOUT_S))

        return FetchOrder(
            file,
            self._parts.store.staging_file(f"{self._id}/{file.ident}"),
            partial(check_staged, file, checked.headers[file.path]),
            partial(turn.enter, here),
            turn.leave,
            self._room.take,
        )

    def _fetch_now(
        self, source: Source, orders: Sequence[FetchOrder], loop: asyncio.AbstractEventLoop
    ) -> None:
        limits, weights = self._parts.limits, self._parts.store
        self._room.take_first(orders)

        def finished(wholes: Sequence[Whole]) -> None:
            # The rows name the digests before the blobs exist: after a crash between the two, a file is
            # found incomplete and finished from its journal; the other way round it would be fetched again.
            digests = {whole.file.key: whole.digest for whole in wholes}
            recorded = asyncio.run_coroutine_threadsafe(self._record(digests), loop)
            recorded.result(RECORD_TIMEOUT_S)
            weights.publish_blobs({whole.staged: whole.digest for whole in wholes})
            loop.call_soon_threadsafe(self._note, digests)

        fetch(
            source,
            orders,
            self._watch.pulse,
            workers=limits.parts_parallel,
            tries_max=limits.file_tries_max,
            finished=finished,
            throttle=self._parts.throttles.of(self._order.org_id),
        )

    async def _record(self, digests: Mapping[str, str | None]) -> None:
        async with self._parts.database.begin() as tx:
            await store.record_digests(tx, self._held, self._id, digests)
        self._log.info("sync.files_done", digests=digests)

    def _note(self, digests: Mapping[str, str]) -> None:
        self._digests.update(digests)
        self._watch.files_done = len(self._digests)

    async def _forget(self, digest: str, tensors: Sequence[PinnedFile]) -> None:
        lost = [file for file in tensors if self._digests.get(file.key) == digest]
        if not lost:
            raise SourceError(
                f"A file of architecture {self._order.arch_id} is missing in the weight store. "
                "Its operator must register it again.",
                code="BASE_MISSING",
            )
        await self._record(dict.fromkeys(file.key for file in lost))

    async def _publish(
        self, base: Manifest, tensors: Sequence[PinnedFile], checked: _Checked
    ) -> str:
        """Publish under the manifest's lease and say so in one guarded write (W2)."""
        self._watch.step = "commit"
        entries = dict(base.by_path())
        for file in tensors:
            entries[file.path] = FileEntry(file.path, file.size_bytes, self._digests[file.key])
        if checked.index is not None:
            put = partial(self._in_thread, partial(self._parts.store.put_bytes, checked.index))
            digest, size_bytes = await self._while_disk_fails(put)
            entries[INDEX_FILE] = FileEntry(INDEX_FILE, size_bytes, digest)
        manifest = Manifest.of(entries.values())
        publishing = await self._lease_manifest(manifest.digest)
        publish = partial(self._in_thread, partial(self._parts.store.publish, manifest))
        await self._while_disk_fails(publish)
        async with self._parts.database.begin() as tx:
            await lease.require(tx, publishing)
            await store.finish(tx, self._held, self._id, SyncStatus.DONE)
            await lease.release(tx, publishing)
        return manifest.digest

    async def _lease_manifest(self, digest: str) -> Lease:
        for _ in range(MANIFEST_LEASE_TRIES_MAX):
            self._watch.check()
            async with self._parts.database.begin() as tx:
                name = store.manifest_lease_name(digest)
                # Held for this claim alone: two syncs of equal bytes publish one after the other.
                holder = f"{self._held.holder}/{self._id}"
                taken = await lease.acquire(tx, name, holder, ttl_s=MANIFEST_LEASE_TTL_S)
                if taken is not None:
                    await store.record_manifest(tx, self._held, self._id, digest)
                    return taken
            await asyncio.sleep(1.0)
        raise StaleError(f"manifest {digest} is being published or deleted by somebody else")

    async def _finish(self, status: SyncStatus, error: WeighbridgeError) -> None:
        async with self._parts.database.begin() as tx:
            await store.finish(
                tx,
                self._held,
                self._id,
                status,
                error_code=error.code,
                error_message=error.message[: store.MESSAGE_CHARACTERS_MAX],
            )
        await self._sweep()
        self._log.warning("sync.ended", status=status.value, code=error.code, message=error.message)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        sweep = partial(self._parts.store.remove_staging, self._id)
        await loop.run_in_executor(self._parts.threads, sweep)

    def _source(self, reader: Reader) -> Source:
        """One per pulse: its client, with the role it assumed, serves all steps."""
        if self._current is None or self._current.pulse is not self._watch.pulse:
            limits = self._parts.limits
            self._current = Source(self._parts.access, reader, limits, self._watch.pulse)
        return self._current

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        """Run blocking work; a cancelled task first stops it and waits, so that nothing writes unowned."""
        self._watch.check()
        future = asyncio.get_running_loop().run_in_executor(self._parts.threads, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._watch.stop(StaleError(f"the sync of {self._id} was interrupted"))
            await asyncio.wait([future])
            raise
