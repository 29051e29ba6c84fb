"""The doctor's examination: the URI, the bucket's org, the steps, and a verdict where an architecture is named."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weighbridge.accounts.model import Org
from weighbridge.errors import InvalidError
from weighbridge.ingest.doctor.access_steps import (
    assume_role,
    find_bucket,
    list_folder,
    refuse_others,
)
from weighbridge.ingest.doctor.asking import PROBE_S, Asking, TimeIsUpError
from weighbridge.ingest.doctor.look_alikes import other_spelling
from weighbridge.ingest.doctor.model import Report, Step, UploadVerdict
from weighbridge.ingest.doctor.object_steps import look_at_objects, read_objects
from weighbridge.ingest.model import S3Prefix, SyncLimits
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.s3 import bindings
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.ingest.s3.policies import Reader
from weighbridge.ingest.s3.source import Source
from weighbridge.ingest.s3.survey import is_proven, pin_folder, read_headers, tensor_files
from weighbridge.storage.database import Database
from weighbridge.weights.shard_index import Problem
from weighbridge.weights.verdict import Wish, judge

VERDICT_S = 6.0
"""For the verdict, after the probes."""
WHOLE_S = 14.0
"""After this no request begins; the last one may take its own 6 s, so an answer comes within 20 s."""

_LIMITS = SyncLimits(
    bytes_max=0,
    part_bytes=16 * 1024 * 1024,
    parts_parallel=8,
    stall_s=3.0,
    total_s=VERDICT_S,
    access_retry_s=0.0,
    disk_wait_s=0.0,
    disk_free_min_share=0.0,
)


@dataclass(frozen=True, slots=True)
class Doctor:
    """Examines folders for orgs; a bucket that an org could read is bound to it, as by a sync (T7)."""

    database: Database
    access: S3Access
    monotonic: Callable[[], float]

    async def examine(self, org: Org, weight_uri: str, wish: Wish | None) -> Report:
        """Within about 20 s; whatever is wrong is in the report."""
        try:
            source = S3Prefix.parse(weight_uri)
            reader = self.access.reader(source, org.s3_role_arn, org.s3_external_id)
        except InvalidError as error:
            spelling = other_spelling(weight_uri)
            step = Step("uri", False, error.message, error.code)
            return Report((step,), () if spelling is None else (spelling,))
        try:
            async with self.database.begin() as tx:
                await bindings.require(tx, reader, org.id)
                bound = await bindings.bound_to(tx, reader, org.id)
                asked = await bindings.needs_proof(tx, reader, org.id)
            if asked and reader.shared and not await asyncio.to_thread(self._proven, reader):
                raise bindings.unproven(reader)
        except SourceError as error:
            return Report((Step("bucket", False, error.message, error.code),))
        # Through a role that other orgs share, names beside the folder are shown to the bucket's org alone.
        looks_around = bound or not reader.shared
        asking = Asking(reader, self.monotonic)
        await asyncio.to_thread(self._probe, asking, looks_around)
        verdict = None
        if all(step.ok for step in asking.steps):
            open_role = any(step.code == "ROLE_OPEN" for step in asking.steps)
            try:
                async with self.database.begin() as tx:
                    # A role that lets others in proves nothing.
                    if not open_role or not await bindings.needs_proof(tx, reader, org.id):
                        await bindings.bind(tx, reader, org.id)
            except SourceError as error:
                return Report((Step("bucket", False, error.message, error.code),))
            if wish is not None:
                verdict = await asyncio.to_thread(self._judge, asking, wish)
        return Report(tuple(asking.steps), tuple(asking.look_alikes), verdict)

    def _proven(self, reader: Reader) -> bool:
        """An org's own role is examined by a step of its own; here it is about the shared one."""
        if not self.access.owner_is_proven:
            return True
        return is_proven(self.access.hurried(), reader, _LIMITS, Pulse(self.monotonic))

    def _probe(self, asking: Asking, looks_around: bool) -> None:
        access = self.access.hurried()
        try:
            if not assume_role(asking, access):
                return
            refuse_others(asking, access)
            if not find_bucket(asking, access, looks_around=looks_around):
                return
            listed = list_folder(asking, looks_around=looks_around)
            if heads := look_at_objects(asking, listed):
                read_objects(asking, heads)
        except TimeIsUpError:
            message = f"The steps so far took {PROBE_S:.0f} s; those after them were not tried. Ask again."
            asking.steps.append(Step("time", False, message, "TIME_LIMIT"))

    def _judge(self, asking: Asking, wish: Wish) -> UploadVerdict:
        pulse = Pulse(self.monotonic)
        slow = SourceError(
            "The headers could not be read in the time there is. An upload takes longer for them.",
            code="TIME_LIMIT",
        )
        left_s = max(0.0, min(VERDICT_S, WHOLE_S - asking.spent_s()))
        timer = threading.Timer(left_s, pulse.stop, [slow])
        timer.start()
        try:
            return _verdict(self.access.hurried(), asking.reader, pulse, wish)
        except (InvalidError, SourceError) as error:
            return UploadVerdict(wish.arch_id, [Problem(error.code, error.message)], 0, 0, 0)
        finally:
            timer.cancel()


def _verdict(access: S3Access, reader: Reader, pulse: Pulse, wish: Wish) -> UploadVerdict:
    source = Source(access, reader, _LIMITS, pulse)
    files, _ = pin_folder(source)
    headers = read_headers(source, files)
    weights = tensor_files(files)
    specs: Sequence[object] = [spec for part in headers.readable().values() for spec in part]
    return UploadVerdict(
        model_arch_id=wish.arch_id,
        problems=judge(wish, headers).problems,
        files=len(weights),
        tensors=len(specs),
        size_bytes=sum(file.size_bytes for file in weights),
    )
