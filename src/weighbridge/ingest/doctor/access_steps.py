"""The steps up to the listing: assume the role, see that it refuses others, find the bucket, list the folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from weighbridge.ingest.doctor.asking import BUCKET_POLICY, TRUST_POLICY, Asking
from weighbridge.ingest.doctor.look_alikes import inner_folders, near_misses
from weighbridge.ingest.doctor.model import Step
from weighbridge.ingest.plan import TENSOR_SUFFIX
from weighbridge.ingest.s3.access import S3Access, located
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.ingest.s3.policies import (
    SERVER_UNKNOWN,
    WRONG_EXTERNAL_ID,
    Reader,
    Statement,
    list_statement,
    location_statement,
    session_policy,
    trust_statement,
)

log = structlog.get_logger()

Listed = Mapping[str, Any]
"""One entry of a listing, or the answer of a HEAD, as botocore gives it."""


def assume_role(asking: Asking, access: S3Access) -> bool:
    reader = asking.reader
    if reader.role_arn is None:
        asking.passed("role", "There is no role: the server reads with its own credentials.")
        return True
    try:
        _assume(asking, access, reader.external_id)
    except SourceError as error:
        if error.code == "ROLE_ACCESS_DENIED":
            asking.failed("role", error, _trust(reader, access), TRUST_POLICY)
        else:
            asking.failed("role", error)
        return False
    asking.passed("role", f"The role {reader.role_arn} can be assumed.")
    return True


def refuse_others(asking: Asking, access: S3Access) -> None:
    """An org's own role must refuse whoever does not bring the org's external id (T7)."""
    reader = asking.reader
    if reader.shared or reader.role_arn is None:
        return
    for external_id, words in (
        (None, "without an external id"),
        (WRONG_EXTERNAL_ID, "with a wrong external id"),
    ):
        try:
            _assume(asking, access, external_id)
        except SourceError as error:
            if error.code == "ROLE_ACCESS_DENIED":
                continue
            asking.passed("external_id", f"It could not be checked: {error.message}")
            return
        message = (
            f"The role {reader.role_arn} can be assumed {words}. Ask for it in the role's trust policy, or whoever "
            "names this role at the server can make it read for them."
        )
        asking.warned("external_id", "ROLE_OPEN", message, _trust(reader, access), TRUST_POLICY)
        return
    asking.passed("external_id", "The role refuses whoever does not bring your external id.")


def find_bucket(asking: Asking, access: S3Access, *, looks_around: bool) -> bool:
    """Make the client for the bucket's region, and say where that is."""
    reader = asking.reader
    bucket = reader.source.bucket
    try:
        asking.client = asking.ask(
            "GetBucketLocation",
            None,
            lambda _: access.client(reader, looks_around=looks_around),
        )
        answer = asking.ask(
            "GetBucketLocation", None, lambda client: client.get_bucket_location(Bucket=bucket)
        )
    except SourceError as error:
        if error.code != "GET_ACCESS_DENIED":
            asking.failed("region", error)
            return False
        message = (
            f"{reader.principal} may not ask for the region of {bucket} (s3:GetBucketLocation)."
        )
        statement = location_statement(reader)
        asking.warned("region", "LOCATION_ACCESS_DENIED", message, statement, BUCKET_POLICY)
        return True
    region = located(answer.get("LocationConstraint"))
    asking.passed("region", f"The bucket {bucket} lies in {region}.")
    return True


def list_folder(asking: Asking, *, looks_around: bool) -> Sequence[Listed] | None:
    """The folder's tensor files, or whatever else it holds; None when it may not be listed."""
    source = asking.reader.source
    try:
        page = asking.page(source.folder)
    except SourceError as error:
        if error.code == "LIST_ACCESS_DENIED":
            asking.failed("list", error, list_statement(asking.reader), BUCKET_POLICY)
            asking.requester_pays(lambda: asking.page(source.folder, pays=True))
        else:
            asking.failed("list", error)
        return None
    objects: Sequence[Listed] = page.get("Contents", ())
    folders = [str(item["Prefix"]) for item in page.get("CommonPrefixes", ())]
    weights = [item for item in objects if str(item["Key"]).endswith(TENSOR_SUFFIX)]
    if weights:
        size = sum(int(item["Size"]) for item in weights)
        more = " on its first page" if page.get("IsTruncated") else ""
        asking.passed(
            "list", f"{source}/ holds {len(weights)} tensor files{more}, {size / 1e9:.2f} GB."
        )
        return weights
    held = f"{len(objects)} objects and {len(folders)} folders" if objects or folders else "nothing"
    message = f"{source}/ holds {held}, and no *{TENSOR_SUFFIX} file directly in it."
    asking.steps.append(Step("list", False, message, "EMPTY"))
    asking.look_alikes += inner_folders(source, folders)
    if looks_around and not objects and not folders:
        _look_around(asking)
    return objects


def _look_around(asking: Asking) -> None:
    source = asking.reader.source
    try:
        beside = asking.page(source.parent)
    except SourceError as error:
        log.info("doctor.cannot_look_around", source=str(source), code=error.code)
        return
    asking.look_alikes += near_misses(
        source,
        [str(item["Prefix"]) for item in beside.get("CommonPrefixes", ())],
        [str(item["Key"]) for item in beside.get("Contents", ())],
    )


def _trust(reader: Reader, access: S3Access) -> Statement:
    return trust_statement(reader, access.server_identity() or SERVER_UNKNOWN)


def _assume(asking: Asking, access: S3Access, external_id: str | None) -> None:
    policy = session_policy(asking.reader)
    asking.ask(
        "AssumeRole",
        None,
        lambda _: access.assume(asking.reader, policy, external_id=external_id),
    )
