"""Names as callers write them: what is taken, and every hostile form that is not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.accounts.names import quoted
from weighbridge.errors import InvalidError
from weighbridge.registry.names import (
    VersionName,
    WeightUri,
    check_alias,
    check_aliases,
    check_suffix,
    parse_ref,
)

DOCUMENTED_ALIAS = re.compile(r"^[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]\Z")

HOSTILE_URIS = {
    "u_file": "file:///etc/passwd",
    "u_http": "http://bucket/prefix",
    "u_https_s3": "https://bucket.s3.amazonaws.com/prefix",
    "u_s3_upper": "S3://bucket/prefix",
    "u_s3a": "s3a://bucket/prefix",
    "u_arn": "arn:aws:s3:::bucket/prefix",
    "u_access_point": "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/x/prefix",
    "u_access_point_alias": "s3://my-point-abc-s3alias/prefix",
    "u_no_bucket": "s3:///prefix",
    "u_no_prefix": "s3://bucket",
    "u_no_prefix_slash": "s3://bucket/",
    "u_bucket_ip": "s3://192.168.0.1/prefix",
    "u_bucket_localhost": "s3://localhost/prefix",
    "u_bucket_port": "s3://localhost:9000/prefix",
    "u_bucket_metadata_ip": "s3://169.254.169.254/latest",
    "u_bucket_dots": "s3://../prefix",
    "u_bucket_two_dots": "s3://a..b/prefix",
    "u_bucket_upper": "s3://Bucket/prefix",
    "u_bucket_64": f"s3://{'b' * 64}/prefix",
    "u_userinfo": "s3://user:password@bucket/prefix",
    "u_query_endpoint": "s3://bucket/prefix?endpoint=http://169.254.169.254",
    "u_fragment": "s3://bucket/prefix#x",
    "u_percent_bucket": "s3://buc%6bet/prefix",
    "u_percent_prefix": "s3://bucket/%2e%2e/prefix",
    "u_dotdot_prefix": "s3://bucket/a/../b",
    "u_dot_prefix": "s3://bucket/./b",
    "u_double_slash": "s3://bucket//prefix",
    "u_double_slash_end": "s3://bucket/prefix//",
    "u_backslash": "s3://bucket/a\\..\\b",
    "u_nul": "s3://bucket/pre\x00fix",
    "u_crlf": "s3://bucket/pre\r\nfix",
    "u_rtl": "s3://bucket/pre\u202efix",
    "u_surrogate": "s3://bucket/pre\ud800fix",
    "u_space_end": "s3://bucket/prefix /x",
    "u_8k": "s3://bucket/" + "p" * 8192,
    "u_leading_space": " s3://bucket/prefix",
    "u_empty": "",
}


@pytest.mark.parametrize("uri", HOSTILE_URIS.values(), ids=HOSTILE_URIS)
def test_a_hostile_weight_uri_is_refused_by_name(uri: str) -> None:
    with pytest.raises(InvalidError) as caught:
        WeightUri.parse(uri)
    assert caught.value.code == "invalid_weight_uri"
    assert caught.value.param == "weight_uri"
    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://my-bucket/model-weights", "my-bucket", "model-weights"),
        ("s3://my-bucket/model-weights/", "my-bucket", "model-weights"),
        ("s3://my.bucket/a/b=c/v1.2_x", "my.bucket", "a/b=c/v1.2_x"),
        ("s3://abc/Gewichte/größe 2", "abc", "Gewichte/größe 2"),
    ],
)
def test_a_bucket_and_prefix_are_taken_as_they_stand(uri: str, bucket: str, prefix: str) -> None:
    assert WeightUri.parse(uri) == WeightUri(bucket, prefix)


@given(st.text(max_size=200))
def test_whatever_a_uri_holds_it_is_parsed_or_refused(text: str) -> None:
    try:
        uri = WeightUri.parse("s3://" + text)
    except InvalidError:
        return
    assert WeightUri.parse(str(uri)) == uri
    assert not {"", ".", ".."} & set(uri.prefix.split("/"))


@given(st.text(max_size=140) | st.from_regex(DOCUMENTED_ALIAS))
def test_the_alias_rule_is_the_documented_one_and_never_a_number(text: str) -> None:
    documented = DOCUMENTED_ALIAS.match(text) is not None
    try:
        taken = check_alias(text) == text
    except InvalidError:
        taken = False
    assert taken == documented
    if taken:
        assert parse_ref(text) == text


@pytest.mark.parametrize(
    "alias",
    [
        "",
        "a",
        "1",
        "12",
        "A1",
        "prod/uction",
        "prod\x00",
        "a_b",
        "a.b",
        "prod-",
        "producT",
        "prod\n",
        "a" * 129,
    ],
)
def test_a_malformed_alias_is_refused(alias: str) -> None:
    with pytest.raises(InvalidError):
        check_alias(alias)


def test_an_alias_twice_in_a_list_and_a_list_too_long_are_refused() -> None:
    with pytest.raises(InvalidError, match="twice"):
        check_aliases(["production", "stable", "production"])
    with pytest.raises(InvalidError, match="at most 64"):
        check_aliases([f"alias-{n}" for n in range(65)])
    assert check_aliases(["b1", "a1"]) == ("b1", "a1")


@pytest.mark.parametrize("suffix", ["", "a b", "x\n", "é", "s" * 65, "s" * 1024, "a/b"])
def test_a_malformed_suffix_is_refused(suffix: str) -> None:
    with pytest.raises(InvalidError):
        check_suffix(suffix)


@pytest.mark.parametrize(
    "ref",
    [
        "0",
        "-1",
        "+1",
        "01",
        "1e30",
        "1.0",
        "9" * 30,
        "2147483648",
        "١",
        "１",
        " 1",
        "1 ",
        "",
        "1\n",
    ],
)
def test_a_number_is_written_in_one_way_only(ref: str) -> None:
    with pytest.raises(InvalidError):
        parse_ref(ref)


def test_the_largest_number_is_a_number() -> None:
    assert parse_ref("2147483647") == 2147483647


@given(st.integers(1, 2**31 - 1) | st.from_regex(DOCUMENTED_ALIAS))
def test_a_version_name_is_read_back_as_it_was_written(ref: int | str) -> None:
    name = VersionName("my-org", "llama-3.3-70b", ref)
    assert VersionName.parse(str(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "orgs/o/models/a/versions/",
        "/orgs/o/models/a/versions/1",
        "orgs/o/models/a/versions/1/",
        "orgs//models/a/versions/1",
        "orgs/o/models/a",
        "orgs/o/models/a/b/versions/1",
        "orgs/o/models/a/versions/0",
        "ORGS/o/models/a/versions/1",
    ],
)
def test_a_malformed_version_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidError):
        VersionName.parse(name)


@given(st.text(max_size=1000))
def test_what_a_caller_wrote_is_shown_short_and_printable(text: str) -> None:
    shown = quoted(text)
    assert shown.isprintable()
    assert len(shown) <= 1000
