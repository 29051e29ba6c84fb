"""The steps on objects: HEAD of each, one byte, one byte per KMS key, one byte of a version."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from weighbridge.ingest.doctor.access_steps import Listed
from weighbridge.ingest.doctor.asking import BUCKET_POLICY, KEY_POLICY, Asking
from weighbridge.ingest.doctor.model import LookAlike
from weighbridge.ingest.s3.faults import SourceError, archived
from weighbridge.ingest.s3.policies import decrypt_statement, read_statement

HEADS_MAX = 64
HEADS_PARALLEL = 16
GUESSES = ("config.json", "model.safetensors", "model.safetensors.index.json")
"""Names to try in a folder that may not be listed."""

_ARCHIVES = frozenset(["GLACIER", "DEEP_ARCHIVE"])
_Head = tuple[str, Listed]


def look_at_objects(asking: Asking, listed: Sequence[Listed] | None) -> Sequence[_Head]:
    """HEAD of the objects, archived ones first; those that answered, none when one must be restored."""
    if listed is None:
        keys = [asking.reader.source.folder + name for name in GUESSES]
    else:
        asleep = sorted(listed, key=lambda item: item.get("StorageClass") not in _ARCHIVES)
        keys = [str(item["Key"]) for item in asleep[:HEADS_MAX]]
    if not keys:
        return ()
    with ThreadPoolExecutor(HEADS_PARALLEL, thread_name_prefix="doctor") as pool:
        answers = list(zip(keys, pool.map(lambda key: _head(asking, key), keys), strict=True))
    found = [(key, item) for key, item in answers if not isinstance(item, SourceError)]
    faults = [item for _, item in answers if isinstance(item, SourceError)]
    for key, head in found:
        restored = 'ongoing-request="false"' in head.get("Restore", "")
        if (head.get("StorageClass") in _ARCHIVES and not restored) or head.get("ArchiveStatus"):
            asking.failed("head", archived(f"s3://{asking.reader.source.bucket}/{key}"))
            return ()
    if faults and (listed is not None or not found):
        _refused(asking, faults, found)
    else:
        asking.passed("head", f"{len(found)} objects can be looked at.")
    return found


def _head(asking: Asking, key: str) -> Listed | SourceError:
    def head(client: Any) -> Listed:  # botocore's clients have no type of their own
        # Without its checksum: that would need kms:Decrypt, which has a step of its own.
        answer: Listed = client.head_object(Bucket=asking.reader.source.bucket, Key=key)
        return answer

    try:
        return asking.ask("HeadObject", key, head)
    except SourceError as error:
        return error


def _refused(asking: Asking, faults: Sequence[SourceError], found: Sequence[_Head]) -> None:
    denied = [error for error in faults if error.code == "GET_ACCESS_DENIED"]
    if not denied:
        asking.failed("head", faults[0])
        return
    asking.failed("head", denied[0], read_statement(asking.reader), BUCKET_POLICY)
    if found:
        message = (
            f"{len(denied)} of {len(faults) + len(found)} objects are refused and the others are not: they may belong "
            "to another account that wrote them. Set Object Ownership to 'Bucket owner enforced', or copy them over "
            "themselves as the bucket's owner."
        )
        asking.look_alikes.append(LookAlike("OBJECT_OWNER", message))


def read_objects(asking: Asking, heads: Sequence[_Head]) -> None:
    """One byte of an unencrypted object, of one for each KMS key, and of a version."""
    head_of = dict(heads)
    by_kms = {
        str(head["SSEKMSKeyId"]): key for key, head in reversed(heads) if head.get("SSEKMSKeyId")
    }
    plain = next((key for key, head in heads if not head.get("SSEKMSKeyId")), None)
    if plain is not None:
        if not _first_byte(asking, "first_byte", plain, head_of[plain]):
            return
        asking.passed("first_byte", "Bytes can be read.")
    for kms_key, key in sorted(by_kms.items()):
        if not _first_byte(asking, "kms", key, head_of[key]):
            return
        asking.passed("kms", f"Objects encrypted with {kms_key} can be read.")
    _version(asking, *heads[0])


def _first_byte(asking: Asking, step: str, key: str, head: Listed) -> bool:
    try:
        _get(asking, key, head)
    except SourceError as error:
        if error.code == "KMS_ACCESS_DENIED":
            asking.failed("kms", error, decrypt_statement(asking.reader), KEY_POLICY)
        elif error.code == "GET_ACCESS_DENIED":
            asking.failed(step, error, read_statement(asking.reader), BUCKET_POLICY)
            asking.requester_pays(lambda: _get(asking, key, head, RequestPayer="requester"))
        else:
            asking.failed(step, error)
        return False
    return True


def _version(asking: Asking, key: str, head: Listed) -> None:
    version_id = head.get("VersionId")
    if not version_id or version_id == "null":
        asking.passed("version_read", "The bucket is not versioned: syncs are pinned by ETag.")
        return
    try:
        _get(asking, key, head, VersionId=str(version_id))
    except SourceError as error:
        if error.code != "GET_ACCESS_DENIED":
            asking.failed("version_read", error)
            return
        message = (
            f"{asking.reader.principal} may not read versions (s3:GetObjectVersion). Syncs work, pinned by ETag; with "
            "it, a sync also outlives the overwriting of an object."
        )
        statement = read_statement(asking.reader)
        asking.warned("version_read", "VERSION_ACCESS_DENIED", message, statement, BUCKET_POLICY)
        return
    asking.passed("version_read", "Versions can be read.")


def _get(asking: Asking, key: str, head: Listed, **more: str) -> None:
    if int(head["ContentLength"]) == 0:
        return

    def first_byte(client: Any) -> None:  # as above
        answer = client.get_object(
            Bucket=asking.reader.source.bucket,
            Key=key,
            Range="bytes=0-0",
            IfMatch=head["ETag"],
            **more,
        )
        with closing(answer["Body"]) as body:
            body.read(1)

    asking.ask("GetObject", key, first_byte)
