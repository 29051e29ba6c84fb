"""Every case of a weight sync by name, each with a folder of its own in one bucket."""

from collections.abc import Mapping

from cases.contents import CONFIGS, INDEXES, KEYS, TENSORS
from cases.faults import ACCESS, DISKS, LISTINGS, TRANSFER
from cases.model import MODEL, Case
from safetensors_cases import CASES as HEADERS

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
