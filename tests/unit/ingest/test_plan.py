"""Which syncs are claimed, which objects are weights, where weights may come from (T7, T8; reliability C5 k_, u_)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.errors import InvalidError
from weighbridge.ingest.model import ListedObject, OpenSync, S3Prefix
from weighbridge.ingest.plan import SYNCS_PER_ORG_MAX, choose, select
from weighbridge.ingest.s3.access import located
from weighbridge.ingest.s3.policies import Reader, session_policy
from weighbridge.registry.model import SyncStatus

SOURCE = S3Prefix("acme", "m")


def listed(*names: str) -> list[ListedObject]:
    return [ListedObject(f"m/{name}", 1, '"etag"') for name in names]


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://my-bucket/model-weights", "my-bucket", "model-weights"),
        ("s3://b.c.d/a/b/c/", "b.c.d", "a/b/c"),
        ("s3://bucket/run=7/step 100", "bucket", "run=7/step 100"),
    ],
)
def test_a_folder_of_a_bucket_is_taken(uri: str, bucket: str, prefix: str) -> None:
    assert S3Prefix.parse(uri) == S3Prefix(bucket, prefix)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc", "http://bucket/p", "https://bucket.s3.amazonaws.com/p", "S3://bucket/p", "s3a://b/p",
        "arn:aws:s3:::bucket/p", "s3:///p", "s3://bucket", "s3://bucket/", "s3://169.254.169.254/p",
        "s3://127.0.0.1/p", "s3://a..b/p", "s3://BUCKET/p", f"s3://{'b' * 64}/p", "s3://user:pw@bucket/p",
        "s3://bucket/p?endpoint=http://evil", "s3://bucket/p#x", "s3://b%75cket/p", "s3://bucket/../p",
        "s3://bucket/a/../b", "s3://bucket//p", "s3://bucket/p\0", "s3://bucket/p\r\nX: y",
        f"s3://bucket/{'p' * 8000}", "", "s3://bucket/p\\q",
    ],
)  # fmt: skip
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(InvalidError) as refusal:
        S3Prefix.parse(uri)
    assert refusal.value.code == "BAD_WEIGHT_URI"
    assert refusal.value.message.isprintable()
    assert len(refusal.value.message) < 300


def test_weights_are_taken_by_an_allowlist_and_the_rest_is_ignored_with_a_reason() -> None:
    names = [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "optimizer.pt",
        "modeling.py",
        "",
    ]
    chosen = select(SOURCE, listed(*names), ["m/checkpoint-1/"])
    assert list(chosen.tensors) == ["model.safetensors"]
    assert list(chosen.compared) == ["config.json"]
    assert chosen.ignored == {
        "'m/checkpoint-1/'": "a folder inside the prefix",
        "'tokenizer.json'": "the architecture brings its own",
        "'optimizer.pt'": "a pickle can run code",
        "'modeling.py'": "not weights",
        "''": "a folder marker",
    }


@pytest.mark.parametrize(
    "name",
    [
        "..\\x.safetensors", "%2e%2e.safetensors", ".hidden.safetensors", "a b.safetensors", "a\n.safetensors",
        "a\x1b[31m.safetensors", "é.safetensors", "e\u0301.safetensors", "a\u202e.safetensors", "~.safetensors",
        "$HOME.safetensors", "C:x.safetensors", "a;rm.safetensors", f"{'a' * 200}.safetensors", ".safetensors",
    ],
)  # fmt: skip
def test_a_tensor_file_with_an_unsafe_name_ends_the_sync(name: str) -> None:
    with pytest.raises(InvalidError) as refusal:
        select(SOURCE, listed("model.safetensors", name), [])
    assert refusal.value.code == "BAD_NAME"
    assert refusal.value.message.isascii()
    assert refusal.value.message.isprintable()


def test_an_index_that_claims_200_mb_is_refused_unread() -> None:
    huge = ListedObject("m/model.safetensors.index.json", 200_000_000, "x")
    with pytest.raises(InvalidError) as refusal:
        select(SOURCE, [*listed("model.safetensors"), huge], [])
    assert refusal.value.code == "TOO_LARGE"


@given(st.lists(st.text(max_size=20), max_size=8, unique=True))
def test_whatever_the_keys_are_only_plain_names_become_paths(names: list[str]) -> None:
    try:
        chosen = select(SOURCE, listed(*names), [])
    except InvalidError:
        return
    assert all(name.isascii() and "/" not in name and name[0] != "." for name in chosen.tensors)
    assert all(text.isprintable() and text.isascii() for text in chosen.ignored)


orgs = st.sampled_from(["a", "b", "c"])
syncs = st.lists(
    st.builds(
        OpenSync,
        st.uuids().map(str),
        orgs,
        st.just(SyncStatus.QUEUED),
        st.just(0),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
    unique_by=lambda sync: sync.version_id,
)


@given(syncs, st.integers(1, 4))
def test_claims_stay_within_the_limits_and_use_what_they_leave(
    waiting: list[OpenSync], node_max: int
) -> None:
    chosen = choose(waiting, frozenset(), node_max)
    by_id = {sync.version_id: sync for sync in waiting}
    assert len(chosen) <= node_max
    for org in "abc":
        held = sum(sync.held for sync in waiting if sync.org_id == org)
        taken = [by_id[i] for i in chosen if by_id[i].org_id == org]
        assert held >= SYNCS_PER_ORG_MAX or held + len(taken) <= SYNCS_PER_ORG_MAX
        assert not any(sync.held or sync.cancelled for sync in taken)
        free = [s for s in waiting if s.org_id == org and not s.held and not s.cancelled]
        if len(chosen) < node_max and held + len(taken) < SYNCS_PER_ORG_MAX:
            assert len(taken) == len(free)


def test_the_session_policy_takes_a_customers_wildcards_as_text() -> None:
    reader = Reader(S3Prefix("acme", "a*b$c"), "arn:aws-cn:iam::1:role/r", "x")
    policy = json.loads(session_policy(reader))["Statement"]
    assert policy[0]["Resource"] == "arn:aws-cn:s3:::acme/a${*}b${$}c/*"
    assert policy[1]["Condition"]["StringLike"]["s3:prefix"] == "a${*}b${$}c/*"


def test_a_prefix_too_long_for_a_session_policy_is_refused() -> None:
    reader = Reader(S3Prefix("acme", "*" * 700), "arn:aws:iam::1:role/r", "x")
    with pytest.raises(InvalidError):
        session_policy(reader)


@pytest.mark.parametrize(
    ("constraint", "region"),
    [(None, "us-east-1"), ("", "us-east-1"), ("EU", "eu-west-1"), ("ap-south-1", "ap-south-1")],
)
def test_old_words_for_regions_are_known(constraint: str | None, region: str) -> None:
    assert located(constraint) == region
