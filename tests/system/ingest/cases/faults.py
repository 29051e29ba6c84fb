"""Faults around a bucket: listings that lie, rights that are missing, transfers that break, disks that are full."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from urllib.parse import quote

import awscrt.checksums

from cases.model import GOOD, MODEL, SPECS, Case, Fault, Page, Refusal
from s3_stub import Request, listing
from safetensors_files import safetensors_file


def never(status: int, code: str, operation: str) -> Refusal:
    return lambda asked, number: (status, code) if asked.operation == operation else None


def first(count: int, status: int, code: str, operation: str) -> Refusal:
    """The first `count` requests of this operation are refused."""
    seen: list[int] = []

    def refuse(asked: Request, number: int) -> tuple[int, str] | None:
        if asked.operation != operation or len(seen) >= count:
            return None
        seen.append(number)
        return status, code

    return refuse


def body(fault: str, *, times: int = 10**6, after: int = 0) -> Fault:
    return lambda asked, number: fault if after <= number < after + times else ""


def flood(query: Mapping[str, str], number: int) -> str:
    """A bucket with 100,000 objects in the folder, a thousand a page."""
    start = number * 1000
    keys = "".join(
        f"<Contents><Key>{quote(query['prefix'])}{at}</Key><Size>1</Size></Contents>"
        for at in range(start, start + 1000)
    )
    return listing(keys, token=str(number + 1) if number < 99 else "")


def pages(text: Callable[[str], str]) -> Page:
    return lambda query, number: text(query["prefix"])


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
LISTINGS = {
    "l_100k_objects": Case("TOO_LARGE", page=flood, words="more than 2000"),
    "l_names_twice": Case(
        "LISTING_LOOPS",
        page=pages(lambda p: listing(f"<Contents><Key>{p}a</Key><Size>1</Size></Contents>" * 2)),
    ),
    "l_same_page_again": Case(
        "LISTING_LOOPS",
        page=pages(
            lambda p: listing(f"<Contents><Key>{p}a</Key><Size>1</Size></Contents>", token="t")
        ),
    ),
    "l_token_loops": Case("LISTING_LOOPS", page=pages(lambda p: listing("", token="t"))),
    "l_endless_pages": Case(
        "LISTING_LOOPS", page=lambda query, number: listing("", token=f"t{number}"), words="pages"
    ),
    "l_outside_the_folder": Case(
        "LISTING_LOOPS",
        page=pages(lambda p: listing("<Contents><Key>other/x</Key><Size>1</Size></Contents>")),
    ),
    "l_billion_laughs": Case(
        "UNREACHABLE",
        page=pages(
            lambda p: f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]>{listing("<Name>&l9;</Name>")}'
        ),
    ),
    "l_external_entity": Case(
        "UNREACHABLE",
        page=pages(
            lambda p: (
                '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
                f"{listing('<Contents><Key>&e;</Key><Size>1</Size></Contents>')}"
            )
        ),
    ),
    "l_not_xml": Case("UNREACHABLE", page=pages(lambda p: "<html><body>Sign in")),
    "l_half_a_page": Case("UNREACHABLE", page=pages(lambda p: listing("")[:-9])),
    "l_size_is_no_number": Case(
        "S3_PROTOCOL",
        page=pages(
            lambda p: listing(f"<Contents><Key>{p}{MODEL}</Key><Size>big</Size></Contents>")
        ),
    ),
    "l_vanished_before_head": Case(
        "SOURCE_CHANGED",
        {},
        page=pages(lambda p: listing(f"<Contents><Key>{p}{MODEL}</Key><Size>9</Size></Contents>")),
        words="deleted",
    ),
}
ACCESS = {
    "a_role_denied": Case(
        "ROLE_ACCESS_DENIED", refusal=never(403, "AccessDenied", "AssumeRole"), words="ExternalId"
    ),
    "a_role_once_unavailable": Case(None, refusal=first(1, 503, "SlowDown", "AssumeRole")),
    "a_server_key_unknown": Case(
        "BAD_CREDENTIALS", refusal=never(403, "InvalidClientTokenId", "AssumeRole")
    ),
    "a_server_key_expired": Case(
        "BAD_CREDENTIALS", refusal=never(403, "ExpiredToken", "AssumeRole")
    ),
    "a_role_malformed": Case(
        "ROLE_ACCESS_DENIED", refusal=never(400, "ValidationError", "AssumeRole")
    ),
    "a_list_denied": Case(
        "LIST_ACCESS_DENIED", refusal=never(403, "AccessDenied", "ListObjectsV2"), words="s3:List"
    ),
    "a_list_denied_at_first": Case(
        "LIST_ACCESS_DENIED", refusal=first(1, 403, "AccessDenied", "ListObjectsV2")
    ),
    "a_no_bucket": Case("NO_SUCH_BUCKET", refusal=never(404, "NoSuchBucket", "ListObjectsV2")),
    "a_other_region": Case(
        "WRONG_REGION", refusal=never(301, "PermanentRedirect", "ListObjectsV2"), words="region"
    ),
    "a_region_in_signature": Case(
        "WRONG_REGION", refusal=never(400, "AuthorizationHeaderMalformed", "ListObjectsV2")
    ),
    "a_account_suspended": Case(
        "LIST_ACCESS_DENIED", refusal=never(403, "AllAccessDisabled", "ListObjectsV2")
    ),
    "a_session_token_invalid": Case(
        "BAD_CREDENTIALS", refusal=never(403, "InvalidToken", "ListObjectsV2")
    ),
    "a_signature_refused": Case(
        "BAD_CREDENTIALS", refusal=never(403, "SignatureDoesNotMatch", "ListObjectsV2")
    ),
    "a_clock_skewed": Case(
        "UNREACHABLE", refusal=never(403, "RequestTimeTooSkewed", "ListObjectsV2"), words="Skewed"
    ),
    "a_clock_skewed_once": Case(
        None, refusal=first(1, 403, "RequestTimeTooSkewed", "ListObjectsV2")
    ),
    "a_token_expired_once": Case(None, refusal=first(1, 400, "ExpiredToken", "ListObjectsV2")),
    "a_token_expired_always": Case(
        "TOKEN_EXPIRED", refusal=never(400, "ExpiredToken", "ListObjectsV2")
    ),
    "a_list_500_once": Case(None, refusal=first(1, 500, "InternalError", "ListObjectsV2")),
    "a_list_throttled": Case(None, refusal=first(2, 429, "TooManyRequests", "ListObjectsV2")),
    "a_list_down": Case("UNREACHABLE", refusal=never(503, "ServiceUnavailable", "ListObjectsV2")),
    "a_head_denied": Case(
        "GET_ACCESS_DENIED", refusal=never(403, "AccessDenied", "HeadObject"), words="s3:GetObject"
    ),
    "a_head_503_once": Case(None, refusal=first(1, 503, "SlowDown", "HeadObject")),
    "a_get_denied": Case(
        "GET_ACCESS_DENIED", refusal=never(403, "AccessDenied", "GetObject"), words="bucket"
    ),
    "a_requester_pays": Case(
        "GET_ACCESS_DENIED", refusal=never(403, "AccessDenied: Requester Pays", "GetObject")
    ),
    "a_kms_denied": Case(
        "KMS_ACCESS_DENIED",
        refusal=never(403, "AccessDenied: not authorized to perform kms:Decrypt", "GetObject"),
        words="kms:Decrypt",
    ),
    "a_kms_key_disabled": Case(
        "KMS_ACCESS_DENIED", refusal=never(400, "KMS.DisabledException", "GetObject")
    ),
    "a_customer_key": Case("S3_REQUEST", refusal=never(400, "InvalidRequest", "GetObject")),
    "a_archived_glacier": Case("ARCHIVED", head={"x-amz-storage-class": "GLACIER"}),
    "a_archived_deep": Case("ARCHIVED", head={"x-amz-storage-class": "DEEP_ARCHIVE"}),
    "a_archived_tier": Case("ARCHIVED", head={"x-amz-archive-status": "ARCHIVE_ACCESS"}),
    "a_archived_restoring": Case(
        "ARCHIVED",
        head={"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'},
    ),
    "a_archived_restored": Case(
        None, head={"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="false"'}
    ),
    "a_archived_instant": Case(None, head={"x-amz-storage-class": "GLACIER_IR"}),
    "a_archived_since": Case("ARCHIVED", refusal=never(403, "InvalidObjectState", "GetObject")),
}


def crc64(content: bytes) -> str:
    return base64.b64encode(awscrt.checksums.crc64nvme(content).to_bytes(8, "big")).decode()


SHA256 = base64.b64encode(hashlib.sha256(GOOD).digest()).decode()
STATED = {"x-amz-checksum-crc64nvme": crc64(GOOD), "x-amz-checksum-type": "FULL_OBJECT"}
TRANSFER = {
    "p_503_once": Case(None, fault=body("503", times=1)),
    "p_503_storm": Case("STALLED", fault=body("503", after=1), words="SlowDown"),
    "p_503_every_other": Case(None, fault=lambda asked, number: "503" if number % 2 else ""),
    "p_500_thrice": Case(None, fault=body("500", times=3)),
    "p_reset_once": Case(None, fault=body("reset", times=1)),
    "p_reset_always": Case("STALLED", fault=body("reset", after=1)),
    "p_unreachable_from_the_start": Case("STALLED", fault=body("reset")),
    "p_short_once": Case(None, fault=body("short", times=2)),
    "p_length_long": Case("S3_PROTOCOL", fault=body("long")),
    "p_length_short": Case("S3_PROTOCOL", fault=body("length short")),
    "p_no_length": Case("S3_PROTOCOL", fault=body("no length")),
    "p_stall_once": Case(None, fault=body("stall", times=1, after=1)),
    "p_stall_always": Case("STALLED", fault=body("stall", after=1), words="No byte"),
    "p_gzip": Case(None, fault=body("gzip")),
    "p_redirect_metadata": Case("WRONG_REGION", fault=body("redirect")),
    "p_200_with_error_body": Case("S3_PROTOCOL", fault=body("error body")),
    "p_range_ignored": Case("S3_PROTOCOL", fault=body("range ignored")),
    "p_range_wrong": Case("S3_PROTOCOL", fault=body("other range")),
    "p_etag_missing": Case("S3_PROTOCOL", head={"ETag": ""}, words="ETag"),
    "p_etag_changes": Case("SOURCE_CHANGED", fault=body("other etag", after=1)),
    "p_overwritten": Case(
        "SOURCE_CHANGED", refusal=never(412, "PreconditionFailed", "GetObject"), words="overwritten"
    ),
    "p_deleted": Case(
        "SOURCE_CHANGED", refusal=never(404, "NoSuchKey", "GetObject"), words="deleted"
    ),
    "p_version_gone": Case("SOURCE_CHANGED", refusal=never(404, "NoSuchVersion", "GetObject")),
    "p_grown_since": Case("SOURCE_CHANGED", head={"Content-Length": str(len(GOOD) - 8)}),
    "p_5tb_claim": Case("TOO_LARGE", head={"Content-Length": str(5 * 10**12)}, words="most"),
    "p_length_no_number": Case("S3_PROTOCOL", head={"Content-Length": "many"}),
    "p_checksum_right": Case(None, head=STATED),
    "p_checksum_wrong": Case("CHECKSUM", head=STATED | {"x-amz-checksum-crc64nvme": crc64(b"x")}),
    "p_sha256_right": Case(None, head={"x-amz-checksum-sha256": SHA256}),
    "p_sha256_wrong": Case("CHECKSUM", head={"x-amz-checksum-sha256": SHA256[::-1][1:] + "="}),
    "p_two_checksums_one_wrong": Case(
        "CHECKSUM", head=STATED | {"x-amz-checksum-sha256": SHA256[::-1][1:] + "="}
    ),
    "p_checksum_garbage": Case(None, head={"x-amz-checksum-crc64nvme": "!!!"}),
    "p_wrong_bytes_once": Case(None, head=STATED, fault=body("wrong", times=1, after=1)),
    "p_wrong_bytes_always": Case("CHECKSUM", head=STATED, fault=body("wrong", after=1)),
    "p_delete_marker": Case("SOURCE_CHANGED", refusal=never(404, "NoSuchKey", "HeadObject")),
    "p_method_not_allowed": Case("S3_REQUEST", refusal=never(405, "MethodNotAllowed", "GetObject")),
}


def disk(number: int, code: str, fault: str, words: str = "") -> Case:
    """With content of its own: what the store has already is not written again."""
    return Case(code, {MODEL: safetensors_file(SPECS, fill=number)}, words, disk=fault)


DISKS = {
    "d_full_at_reserve": disk(11, "DISK_FULL", "reserve:ENOSPC", "GB"),
    "d_quota_at_reserve": disk(12, "DISK_FULL", "reserve:EDQUOT"),
    "d_full_at_write": disk(13, "DISK_FULL", "write:ENOSPC", "disk is full: No space left"),
    "d_error_at_write": disk(14, "STORE_FAILED", "write:EIO", "repair"),
    "d_read_only_at_open": disk(15, "STORE_FAILED", "open:EROFS", "Read-only"),
    "d_read_only_at_publish": disk(16, "STORE_FAILED", "rename:EROFS", "Read-only"),
    "d_error_at_fsync": disk(17, "STORE_FAILED", "fsync:EIO"),
    "d_full_at_fsync": disk(18, "DISK_FULL", "fsync:ENOSPC", "disk is full: No space left"),
}
