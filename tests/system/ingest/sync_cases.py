"""Hostile inputs and faults of a weight sync by name: what the bucket holds, what goes wrong, how the sync must end.

Each case has a folder of its own in one bucket. `code` None means `done`; `words` must be in the message.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import awscrt.checksums

from ingest_world import BASE_CONFIG
from ingest_world import SPECS as SMALL_SPECS
from s3_stub import Asked, Request, listing
from safetensors_cases import CASES as HEADERS
from safetensors_files import index_of, safetensors_file
from weighbridge.weights.tensors import TensorSpec

EMBED, _, NORM = SMALL_SPECS
UP = TensorSpec("model.layers.0.mlp.up_proj.weight", "BF16", (2048, 64))
SPECS = (EMBED, UP, NORM)
"""More than fits into one small file of the pump's, so the first shard goes the way of large files."""
MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
GOOD = safetensors_file(SPECS)
SHARD_1, SHARD_2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {SHARD_1: SPECS[:2], SHARD_2: SPECS[2:]}
SHARD_FILES = {name: safetensors_file(specs) for name, specs in SHARDS.items()}

Fault = Callable[[Asked, int], str]
Refusal = Callable[[Request, int], tuple[int, str] | None]
Page = Callable[[Mapping[str, str], int], str | None]


@dataclass(frozen=True)
class Case:
    """`fault` and `refusal` get the number of the GET, or of the request, within this case's folder."""

    code: str | None
    files: Mapping[str, bytes] = field(default_factory=lambda: {MODEL: GOOD})
    words: str = ""
    fault: Fault | None = None
    refusal: Refusal | None = None
    page: Page | None = None
    head: Mapping[str, str] = field(default_factory=dict)
    uri: str | None = None
    disk: str = ""


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


def with_config(**members: object) -> Mapping[str, bytes]:
    return {MODEL: GOOD, "config.json": json.dumps(json.loads(BASE_CONFIG) | members).encode()}


def raw_config(text: bytes) -> Mapping[str, bytes]:
    return {MODEL: GOOD, "config.json": text}


def with_index(text: bytes, **more: bytes) -> Mapping[str, bytes]:
    return {**SHARD_FILES, INDEX: text, **more}


def index(weight_map: Mapping[str, object], **members: object) -> bytes:
    return json.dumps({"weight_map": weight_map, **members}).encode()


MAP = {spec.name: name for name, specs in SHARDS.items() for spec in specs}


def named(name: str, *, code: str | None = "BAD_NAME", words: str = "") -> Case:
    return Case(code, {MODEL: GOOD, name: GOOD}, words)


KEYS = {
    "k_nothing": Case("EMPTY", {}, "check its spelling"),
    "k_dotdot": Case("EMPTY", {f"../{MODEL}": GOOD}, "folders"),
    "k_dotdot_encoded": named("%2e%2e%2f.safetensors"),
    "k_double_encoded": named("%252e%252e%252f.safetensors"),
    "k_backslash_dotdot": named("..\\..\\x.safetensors"),
    "k_double_slash": Case("EMPTY", {f"/{MODEL}": GOOD}, "folders"),
    "k_trailing_space": named("x .safetensors"),
    "k_leading_space": named(" x.safetensors"),
    "k_nul": named("a\0b.safetensors"),
    "k_newline": named("a\nb.safetensors"),
    "k_cr": named("a\rb.safetensors"),
    "k_tab": named("a\tb.safetensors"),
    "k_ansi_escape": named("\x1b[31mred.safetensors"),
    "k_del": named("a\x7fb.safetensors"),
    "k_1000_bytes": named("a" * 900 + ".safetensors"),
    "k_nfc_nfd": named("e\u0301.safetensors"),
    "k_case_clash": named("Model.safetensors", code="NAME_COLLISION", words="upper and lower"),
    "k_rtl": named("a\u202eb.safetensors"),
    "k_zero_width": named("a\u200bb.safetensors"),
    "k_emoji": named("\U0001f600.safetensors"),
    "k_colon_stream": named("a:b.safetensors"),
    "k_tilde": named("~root.safetensors"),
    "k_dollar_home": named("$HOME.safetensors"),
    "k_shell_meta": named("`id`;$(id).safetensors"),
    "k_quote_sql": named("'; DROP TABLE orgs; --.safetensors"),
    "k_log4j": named("${jndi:ldap:x}.safetensors"),
    "k_xml_entity": named("&lt;&amp;.safetensors"),
    "k_hidden_dotfile": named(".hidden.safetensors"),
    "k_only_suffix": named(".safetensors"),
    "k_manifest_name": named("weighbridge-manifest.json", code=None),
    "k_staging_name": named("tmp-fill-x", code=None),
    "k_blob_name_guess": named("a" * 64, code=None),
    "k_directory_object": Case(None, {MODEL: GOOD, "": b""}),
    "k_zero_byte_notes": Case(None, {MODEL: GOOD, "README.md": b""}),
    "k_zero_bytes": Case("ST_TOO_SHORT", {MODEL: b""}, "0 bytes"),
    "k_sub_folder_only": Case("EMPTY", {f"checkpoint-100/{MODEL}": GOOD}, "1 folders"),
    "k_sub_folder_beside": Case(None, {MODEL: GOOD, "original/consolidated.pth": b"x"}),
    "k_dir_and_file_same": Case(None, {MODEL: GOOD, f"{MODEL}/x": b"x"}),
    "fl_py_module": Case(None, {MODEL: GOOD, "modeling.py": b"import os"}),
    "fl_pth_site": Case(None, {MODEL: GOOD, "evil.pth": b"import os"}),
    "fl_pytorch_bin": Case("PICKLE_ONLY", {"pytorch_model.bin": b"\x80\x04"}, "safetensors"),
    "fl_pt": Case("PICKLE_ONLY", {"model.pt": b"PK"}, "safetensors"),
    "fl_pkl_named_safetensors": Case("ST_HEADER_TOO_LONG", {MODEL: b"\x80\x04" * 20}),
    "fl_gguf": Case("EMPTY", {"model.gguf": b"GGUF"}, "no *.safetensors"),
    "fl_zip_named_safetensors": Case("ST_HEADER_TOO_LONG", {MODEL: b"PK\x03\x04" * 20}),
    "tk_own_tokenizer": Case(None, {MODEL: GOOD, "tokenizer.json": b"{" * 1000}),
    "ct_own_template": Case(None, {MODEL: GOOD, "chat_template.jinja": b"{{ ''.__class__ }}"}),
}

INDEXES = {
    "ix_good": Case(None, with_index(index_of(SHARDS))),
    "ix_missing_shard": Case(
        "MISSING_SHARD", {SHARD_1: SHARD_FILES[SHARD_1], INDEX: index_of(SHARDS)}, SHARD_2
    ),
    "ix_extra_shard": Case(
        "SURPLUS_SHARD", with_index(index_of(SHARDS), **{"extra.safetensors": GOOD}), "extra"
    ),
    "ix_shard_dotdot": Case("MISSING_SHARD", with_index(index(MAP | {"x": "../../x.safetensors"}))),
    "ix_shard_abs": Case("MISSING_SHARD", with_index(index(dict.fromkeys(MAP, "/etc/passwd")))),
    "ix_shard_url": Case("MISSING_SHARD", with_index(index(dict.fromkeys(MAP, "http://x/y")))),
    "ix_tensor_wrong_shard": Case("BAD_INDEX", with_index(index(MAP | {SPECS[0].name: SHARD_2}))),
    "ix_tensor_unlisted": Case(
        "BAD_INDEX", with_index(index({k: v for k, v in MAP.items() if k != SPECS[0].name}))
    ),
    "ix_tensor_not_there": Case("BAD_INDEX", with_index(index(MAP | {"ghost": SHARD_1}))),
    "ix_total_size_lie": Case(None, with_index(index(MAP, metadata={"total_size": 2**60}))),
    "ix_dup_keys": Case("BAD_INDEX", with_index(b'{"weight_map":{"a":"x","a":"y"}}'), "twice"),
    "ix_65mb": Case(
        "TOO_LARGE",
        page=lambda query, number: listing(
            f"<Contents><Key>{query['prefix']}{INDEX}</Key><Size>{64 * 1024**2 + 1}</Size></Contents>"
        ),
        words="bytes",
    ),
    "ix_deep": Case("BAD_INDEX", with_index(b'{"a":' * 100_000)),
    "ix_wide": Case("BAD_INDEX", with_index(b'{"a":[' + b"[]," * 1_500_000 + b"[]]}")),
    "ix_not_json": Case("BAD_INDEX", with_index(b"shards: 2")),
    "ix_nan": Case("BAD_INDEX", with_index(b'{"weight_map":{"a":NaN}}')),
    "ix_null": Case("BAD_INDEX", with_index(b"null")),
    "ix_empty": Case("BAD_INDEX", with_index(b"")),
    "ix_empty_map": Case("BAD_INDEX", with_index(b'{"weight_map":{}}'), "no weight_map"),
    "ix_file_number": Case("BAD_INDEX", with_index(b'{"weight_map":{"a":1}}')),
}

CONFIGS = {
    "cf_good": Case(None, with_config()),
    "cf_auto_map": Case(None, with_config(auto_map={"AutoModel": "evil--repo"})),
    "cf_attn_impl_internal": Case(None, with_config(_attn_implementation_internal="evil/repo")),
    "cf_trust_remote_code": Case(None, with_config(trust_remote_code=True)),
    "cf_model_type_path": Case("WRONG_CONFIG", with_config(model_type="../../x"), "model_type"),
    "cf_hidden_size_2_40": Case("WRONG_CONFIG", with_config(hidden_size=2**40), "hidden_size"),
    "cf_hidden_size_string": Case("WRONG_CONFIG", with_config(hidden_size="64"), "hidden_size"),
    "cf_hidden_size_bool": Case("WRONG_CONFIG", with_config(hidden_size=True)),
    "cf_vocab_zero": Case("WRONG_VOCABULARY", with_config(vocab_size=0)),
    "cf_quantized": Case(
        "UNSUPPORTED_QUANTIZATION", with_config(quantization_config={"quant_method": "gptq"})
    ),
    "cf_quant_bomb": Case("UNSUPPORTED_QUANTIZATION", with_config(quantization_config="x" * 9999)),
    "cf_dup_key": Case("BAD_CONFIG", raw_config(b'{"hidden_size":64,"hidden_size":65}'), "twice"),
    "cf_deep": Case("BAD_CONFIG", raw_config(b'{"a":' + b"[" * 500_000)),
    "cf_wide": Case("BAD_CONFIG", raw_config(b'{"a":[' + b"{}," * 200_000 + b"{}]}")),
    "cf_1mb": Case("TOO_LARGE", raw_config(bytes(1024 * 1024 + 1))),
    "cf_bom": Case("BAD_CONFIG", raw_config(b"\xef\xbb\xbf" + BASE_CONFIG)),
    "cf_nan": Case("BAD_CONFIG", raw_config(b'{"rope_theta":NaN}')),
    "cf_huge_number": Case("BAD_CONFIG", raw_config(b'{"rope_theta":1e999}')),
    "cf_long_integer": Case("BAD_CONFIG", raw_config(b'{"hidden_size":' + b"9" * 9999 + b"}")),
    "cf_yaml": Case("BAD_CONFIG", raw_config(b"hidden_size: 64")),
    "cf_pickle": Case("BAD_CONFIG", raw_config(b"\x80\x04\x95")),
    "cf_array": Case("BAD_CONFIG", raw_config(b"[]")),
    "cf_empty": Case("BAD_CONFIG", raw_config(b"")),
    "cf_utf16": Case("BAD_CONFIG", raw_config(BASE_CONFIG.decode().encode("utf-16"))),
}


def tensors(*specs: TensorSpec) -> Mapping[str, bytes]:
    return {MODEL: safetensors_file(specs)}


TENSORS = {
    "ar_missing_tensor": Case("WRONG_TENSORS", tensors(EMBED, UP), f"1 missing: {NORM.name}"),
    "ar_extra_tensor": Case("WRONG_TENSORS", tensors(*SPECS, TensorSpec("x", "F32", (1,))), "x"),
    "ar_wrong_dtype": Case(
        "WRONG_TENSORS", tensors(EMBED, UP, TensorSpec(NORM.name, "BF16", (64,))), "BF16"
    ),
    "ar_wrong_shape": Case(
        "WRONG_TENSORS", tensors(EMBED, TensorSpec(UP.name, "BF16", (64, 2048)), NORM), "64"
    ),
    "ar_other_arch": Case("WRONG_TENSORS", tensors(TensorSpec("transformer.h.0", "F32", (4,)))),
    "ar_vocab_plus_one": Case(
        "WRONG_VOCABULARY", tensors(TensorSpec(EMBED.name, "BF16", (101, 64)), UP, NORM), "101"
    ),
    "ar_lora_only": Case(
        "WRONG_TENSORS", {"adapter_model.safetensors": tensors(NORM)[MODEL]}, "missing"
    ),
    "ar_tensor_in_two_shards": Case("WRONG_TENSORS", {MODEL: GOOD, "b.safetensors": GOOD}),
    "ar_quantized_dtype": Case(
        "WRONG_TENSORS", tensors(EMBED, TensorSpec(UP.name, "I8", (2048, 64)), NORM), "I8"
    ),
    "ar_all_tensors_extra_padded": Case("ST_WRONG_SIZE", {MODEL: GOOD + bytes(64)}),
}


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

URIS = {
    name: Case("BAD_WEIGHT_URI", {}, "s3://", uri=uri)
    for name, uri in {
        "u_file": "file:///etc/passwd",
        "u_http": "http://169.254.169.254/latest",
        "u_https_s3": "https://s3.amazonaws.com/acme/m",
        "u_scheme_upper": "S3://acme/m",
        "u_s3a": "s3a://acme/m",
        "u_arn": "arn:aws:s3:::acme/m",
        "u_access_point": "s3://arn:aws:s3:eu-west-1:1:accesspoint/x/m",
        "u_no_bucket": "s3:///m",
        "u_no_prefix": "s3://acme",
        "u_bucket_ip": "s3://169.254.169.254/m",
        "u_bucket_dots": "s3://a..b/m",
        "u_bucket_upper": "s3://ACME/m",
        "u_bucket_64": f"s3://{'a' * 64}/m",
        "u_userinfo": "s3://key:secret@acme/m",
        "u_query_endpoint": "s3://acme?endpoint=http://x/m",
        "u_fragment": "s3://acme/m#x",
        "u_percent_bucket": "s3://ac%2fme/m",
        "u_dotdot_prefix": "s3://acme/../other/m",
        "u_dot_prefix": "s3://acme/./m",
        "u_double_slash": "s3://acme//m",
        "u_nul": "s3://acme/m\\0",
        "u_crlf": "s3://acme/m\r\nx",
        "u_8k": f"s3://acme/{'m' * 8000}",
    }.items()
}

HOSTILE_HEADERS = (
    "st_empty", "st_len_max_u64", "st_len_gt_file", "st_utf16", "st_dup_key_other_shape", "st_deep_200k",
    "st_1m_zero_tensors", "st_name_dotdot", "st_overlap", "st_gap", "st_offset_2_63", "st_truncated_data",
    "st_shape_product_overflow", "st_metadata_50mb", "st_long_integer",
)  # fmt: skip
"""One of each kind; the unit tests of the header check have them all."""

CASES: Mapping[str, Case] = {
    **{name: Case(HEADERS[name][1], {MODEL: HEADERS[name][0]}) for name in HOSTILE_HEADERS},
    **KEYS,
    **INDEXES,
    **CONFIGS,
    **TENSORS,
    **LISTINGS,
    **ACCESS,
    **TRANSFER,
    **DISKS,
    **URIS,
}


def folder_of(name: str) -> str:
    return f"{name}/"
