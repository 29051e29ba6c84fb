"""What a customer pastes into AWS so that an org may read a bucket: the policies of role, bucket and key. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from weighbridge.ingest.s3.policies import (
    Reader,
    Statement,
    bucket_policy,
    decrypt_statement,
    role_policy,
    trust_policy,
)


@dataclass(frozen=True, slots=True)
class S3Setup:
    """`trust_policy` and `role_policy` make a role of the customer's own; without one the shared role reads.

    `bucket_policy` is needed where role and bucket are of different accounts, `key_statement` where the objects
    are encrypted with a KMS key.
    """

    trust_policy: Mapping[str, object]
    role_policy: Mapping[str, object]
    bucket_policy: Mapping[str, object]
    key_statement: Statement | None


def setup_of(reader: Reader, server: str, kms_key_arn: str | None = None) -> S3Setup:
    """The policies for a reader; `server` is the identity that assumes the role, and reads where there is none."""
    named = reader if reader.role_arn is not None else replace(reader, role_arn=server)
    own = replace(named, shared=False)
    named = replace(named, shared=reader.shared and reader.role_arn is not None)
    return S3Setup(
        trust_policy=trust_policy(own, server),
        role_policy=role_policy(own, kms_key_arn),
        bucket_policy=bucket_policy(named),
        key_statement=None if kms_key_arn is None else decrypt_statement(named),
    )
