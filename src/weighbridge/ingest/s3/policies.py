"""Who reads which folder, and the exact policy statements that let them: for messages, sessions and set-up. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from blake3 import blake3

from weighbridge.errors import InvalidError
from weighbridge.ingest.model import S3Prefix

SESSION_POLICY_CHARACTERS_MAX = 2048
POLICY_VERSION = "2012-10-17"
WRONG_EXTERNAL_ID = "weighbridge-wrong-external-id"
SERVER_UNKNOWN = "<the identity of the Weighbridge server>"

Statement = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a folder. `shared` says that the role is the operator's, which reads for every org without its own."""

    source: S3Prefix
    role_arn: str | None
    external_id: str
    shared: bool = False
    stranger: bool = False

    def as_stranger(self) -> "Reader":
        """Who must be refused if the bucket, or the role, is to be this org's alone (T7)."""
        if self.shared:
            return replace(self, stranger=True)
        return replace(self, external_id=WRONG_EXTERNAL_ID, stranger=True)

    @property
    def partition(self) -> str:
        return self.role_arn.split(":")[1] if self.role_arn else "aws"

    @property
    def bucket_arn(self) -> str:
        return f"arn:{self.partition}:s3:::{self.source.bucket}"

    @property
    def session_name(self) -> str:
        """Names the org in every session, so that a bucket's policy can tell orgs apart where they share a role."""
        name = f"{self.external_id} a stranger" if self.stranger else self.external_id
        return f"weighbridge-{blake3(name.encode()).hexdigest()[:20]}"

    @property
    def principal(self) -> str:
        return self.role_arn or SERVER_UNKNOWN


def list_statement(reader: Reader) -> Statement:
    """Of the bucket's policy: list the folder."""
    condition = {"StringLike": {"s3:prefix": f"{_literal(reader.source.folder)}*"}}
    return _bucket_statement(
        reader, "WeighbridgeList", ["s3:ListBucket"], reader.bucket_arn, condition
    )


def location_statement(reader: Reader) -> Statement:
    """Of the bucket's policy: ask for the bucket's region."""
    return _bucket_statement(
        reader, "WeighbridgeLocation", ["s3:GetBucketLocation"], reader.bucket_arn
    )


def read_statement(reader: Reader) -> Statement:
    """Of the bucket's policy: read the folder's objects, by version too."""
    return _bucket_statement(
        reader,
        "WeighbridgeRead",
        ["s3:GetObject", "s3:GetObjectVersion"],
        f"{reader.bucket_arn}/{_literal(reader.source.folder)}*",
    )


def decrypt_statement(reader: Reader) -> Statement:
    """Of the KMS key's policy, where `*` means this key."""
    return {
        "Sid": "WeighbridgeDecrypt",
        "Effect": "Allow",
        "Principal": {"AWS": reader.principal},
        "Action": "kms:Decrypt",
        "Resource": "*",
    }


def trust_statement(reader: Reader, server: str = SERVER_UNKNOWN) -> Statement:
    """Of the role's trust policy: `server` may assume it, with this org's external id and not without."""
    return {
        "Sid": "WeighbridgeAssume",
        "Effect": "Allow",
        "Principal": {"AWS": server},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": reader.external_id}},
    }


def document(statements: Sequence[Statement]) -> Mapping[str, object]:
    return {"Version": POLICY_VERSION, "Statement": list(statements)}


def bucket_policy(reader: Reader) -> Mapping[str, object]:
    """All that the bucket's policy must allow."""
    return document([read_statement(reader), list_statement(reader), location_statement(reader)])


def role_policy(reader: Reader, kms_key_arn: str | None = None) -> Mapping[str, object]:
    """The role's own permissions: between accounts both sides must allow."""
    statements = [
        {name: value for name, value in statement.items() if name != "Principal"}
        for statement in (
            read_statement(reader),
            list_statement(reader),
            location_statement(reader),
        )
    ]
    if kms_key_arn is not None:
        decrypt = {**decrypt_statement(reader), "Resource": kms_key_arn}
        statements.append({name: value for name, value in decrypt.items() if name != "Principal"})
    return document(statements)


def trust_policy(reader: Reader, server: str = SERVER_UNKNOWN) -> Mapping[str, object]:
    return document([trust_statement(reader, server)])


def session_policy(reader: Reader, *, looks_around: bool = False) -> str:
    """What the assumed role may do in this session: read one folder of one bucket (T7).

    `looks_around` lets it also list what lies beside the folder, to find a misspelt prefix.
    """
    folder = _literal(reader.source.folder)
    listed: str | list[str] = f"{folder}*"
    if looks_around:
        parent = _literal(reader.source.parent)
        listed = [f"{folder}*", folder.removesuffix("/"), parent]
    statements: list[Statement] = [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:GetObjectVersion"],
            "Resource": f"{reader.bucket_arn}/{folder}*",
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": reader.bucket_arn,
            "Condition": {"StringLike": {"s3:prefix": listed}},
        },
        {"Effect": "Allow", "Action": "s3:GetBucketLocation", "Resource": reader.bucket_arn},
        {
            "Effect": "Allow",
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": {"StringLike": {"kms:ViaService": "s3.*"}},
        },
    ]
    policy = json.dumps(document(statements), separators=(",", ":"))
    if len(policy) > SESSION_POLICY_CHARACTERS_MAX:
        raise InvalidError(
            f"{reader.source} is too long for a session policy; use a shorter prefix.",
            code="BAD_WEIGHT_URI",
            param="weight_uri",
        )
    return policy


def _bucket_statement(
    reader: Reader,
    sid: str,
    actions: Sequence[str],
    resource: str,
    condition: Mapping[str, Mapping[str, str]] | None = None,
) -> Statement:
    conditions = {name: dict(members) for name, members in (condition or {}).items()}
    if reader.shared and reader.role_arn is not None:
        # The role reads for other orgs too: only sessions made for this one may come in.
        conditions.setdefault("StringLike", {})["aws:userid"] = f"*:{reader.session_name}"
    statement: dict[str, object] = {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": reader.principal},
        "Action": actions if len(actions) > 1 else actions[0],
        "Resource": resource,
    }
    if conditions:
        statement["Condition"] = conditions
    return statement


def _literal(text: str) -> str:
    """A customer's characters as policy text in which none of them is a wildcard or a variable."""
    return "".join(f"${{{letter}}}" if letter in "*?$" else letter for letter in text)
