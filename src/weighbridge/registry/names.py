"""Names of models as callers write them: resource names, references, aliases, suffixes, weight URIs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from weighbridge.accounts.names import is_org_name, quoted
from weighbridge.errors import InvalidError

ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]", re.ASCII)
NUMBER = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
NUMBER_MAX = 2**31 - 1
ALIASES_MAX = 64
ARCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}", re.ASCII)
SUFFIX = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
IP_ADDRESS = re.compile(r"[0-9]+(?:\.[0-9]+){3}", re.ASCII)
ACCESS_POINT_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
PREFIX_BYTES_MAX = 900
"""An S3 key has at most 1024 bytes; the rest is left for the files' own names."""
PREFIX_FORBIDDEN = frozenset("?#%\\")


def is_arch_id(text: str) -> bool:
    return ARCH_ID.fullmatch(text) is not None


def check_arch_id(text: str) -> str:
    if not is_arch_id(text):
        raise InvalidError(
            f"{quoted(text)} is not a model architecture's id: up to 127 of A-Z, a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or digit.",
            code="invalid_model_arch_id",
            param="model_arch_id",
        )
    return text


def check_alias(text: str, *, param: str = "version_aliases") -> str:
    """An alias can never be taken for a number (V4)."""
    if not ALIAS.fullmatch(text):
        raise InvalidError(
            f"{quoted(text)} is not an alias: 2 to 128 of A-Z, a-z, 0-9 and '-', beginning with a lower-case "
            "letter and ending with a lower-case letter or digit.",
            code="invalid_alias",
            param=param,
        )
    return text


def check_aliases(aliases: Sequence[str]) -> tuple[str, ...]:
    """The aliases as one set, in the caller's order."""
    if len(aliases) > ALIASES_MAX:
        raise InvalidError(
            f"A version has at most {ALIASES_MAX} aliases, {len(aliases)} were given.",
            code="too_many_aliases",
            param="version_aliases",
        )
    for position, alias in enumerate(aliases):
        check_alias(alias)
        if alias in aliases[:position]:
            raise InvalidError(
                f"Alias {quoted(alias)} is in the list twice.",
                code="duplicate_alias",
                param="version_aliases",
            )
    return tuple(aliases)


def check_suffix(text: str) -> str:
    if not SUFFIX.fullmatch(text):
        raise InvalidError(
            f"{quoted(text)} is not a fingerprint suffix: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'.",
            code="invalid_fingerprint_suffix",
            param="system_fingerprint_suffix",
        )
    return text


def parse_ref(text: str, *, param: str = "version_id") -> int | str:
    """A version's number or one of its aliases, as a path segment may hold either."""
    if NUMBER.fullmatch(text) and int(text) <= NUMBER_MAX:
        return int(text)
    if ALIAS.fullmatch(text):
        return text
    raise InvalidError(
        f"{quoted(text)} is neither a version's number (1, 2, 3, …) nor an alias.",
        code="invalid_version_id",
        param=param,
    )


@dataclass(frozen=True, slots=True)
class VersionName:
    """`orgs/<org>/models/<arch>/versions/<number or alias>`."""

    org: str
    arch: str
    ref: int | str

    @classmethod
    def parse(cls, text: str, *, param: str = "model") -> Self:
        match text.split("/"):
            case ["orgs", org, "models", arch, "versions", ref] if (
                is_org_name(org) and is_arch_id(arch) and ref
            ):
                return cls(org, arch, parse_ref(ref, param=param))
        raise InvalidError(
            f"{quoted(text)} does not name a model version: "
            "orgs/<org_name>/models/<model_arch_id>/versions/<version_id>.",
            code="invalid_version_name",
            param=param,
        )

    def __str__(self) -> str:
        return f"orgs/{self.org}/models/{self.arch}/versions/{self.ref}"


@dataclass(frozen=True, slots=True)
class WeightUri:
    """Where a customer's weights lie (T8). `prefix` has no slash at either end."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Self:
        if not text.startswith("s3://"):
            raise _bad_uri(text, "it must begin with s3://")
        bucket, _, path = text.removeprefix("s3://").partition("/")
        _check_bucket(text, bucket)
        prefix = path.removesuffix("/")
        _check_prefix(text, prefix)
        return cls(bucket, prefix)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def _bad_uri(text: str, why: str) -> InvalidError:
    return InvalidError(
        f"{quoted(text)} is not a weight URI of the form s3://bucket/prefix: {why}.",
        code="invalid_weight_uri",
        param="weight_uri",
    )


def _check_bucket(text: str, bucket: str) -> None:
    if not bucket:
        raise _bad_uri(text, "the bucket is missing")
    if not BUCKET.fullmatch(bucket) or ".." in bucket or ".-" in bucket or "-." in bucket:
        raise _bad_uri(
            text, "a bucket's name is 3 to 63 of a-z, 0-9, '-' and '.', without user, port or query"
        )
    if IP_ADDRESS.fullmatch(bucket) or bucket == "localhost":
        raise _bad_uri(text, "a bucket is named, not addressed")
    if bucket.startswith("xn--") or bucket.endswith(ACCESS_POINT_SUFFIXES):
        raise _bad_uri(text, "access points and directory buckets are not supported")


def _check_prefix(text: str, prefix: str) -> None:
    if not prefix:
        raise _bad_uri(
            text, "a whole bucket cannot be uploaded, name the prefix that holds one model"
        )
    if len(prefix.encode(errors="replace")) > PREFIX_BYTES_MAX:
        raise _bad_uri(text, f"the prefix is longer than {PREFIX_BYTES_MAX} bytes")
    if not prefix.isprintable() or PREFIX_FORBIDDEN & set(prefix):
        raise _bad_uri(
            text,
            "the prefix is taken as it stands: no control characters, no '?', '#', '%' or '\\'",
        )
    for segment in prefix.split("/"):
        if segment in ("", ".", ".."):
            raise _bad_uri(text, "the prefix has an empty, '.' or '..' segment")
        if segment != segment.strip(" "):
            raise _bad_uri(text, "a segment of the prefix begins or ends with a space")
