"""The policies that a customer pastes, to the letter."""

from weighbridge.ingest.model import S3Prefix
from weighbridge.ingest.s3.policies import Reader
from weighbridge.ingest.s3.setup import setup_of

SERVER = "arn:aws:iam::111111111111:role/weighbridge"
OWN = "arn:aws:iam::222222222222:role/reader"
SHARED = "arn:aws:iam::111111111111:role/shared"
KMS_KEY = "arn:aws:kms:eu-west-1:222222222222:key/k-1"


def test_the_policies_of_an_org_with_a_role_of_its_own() -> None:
    reader = Reader(S3Prefix("acme", "models/a"), OWN, "ext-1")
    setup = setup_of(reader, SERVER, KMS_KEY)
    assert setup.trust_policy == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "WeighbridgeAssume",
                "Effect": "Allow",
                "Principal": {"AWS": SERVER},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": "ext-1"}},
            }
        ],
    }
    assert setup.role_policy == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "WeighbridgeRead",
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:GetObjectVersion"],
                "Resource": "arn:aws:s3:::acme/models/a/*",
            },
            {
                "Sid": "WeighbridgeList",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": "arn:aws:s3:::acme",
                "Condition": {"StringLike": {"s3:prefix": "models/a/*"}},
            },
            {
                "Sid": "WeighbridgeLocation",
                "Effect": "Allow",
                "Action": "s3:GetBucketLocation",
                "Resource": "arn:aws:s3:::acme",
            },
            {
                "Sid": "WeighbridgeDecrypt",
                "Effect": "Allow",
                "Action": "kms:Decrypt",
                "Resource": KMS_KEY,
            },
        ],
    }
    assert setup.bucket_policy == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "WeighbridgeRead",
                "Effect": "Allow",
                "Principal": {"AWS": OWN},
                "Action": ["s3:GetObject", "s3:GetObjectVersion"],
                "Resource": "arn:aws:s3:::acme/models/a/*",
            },
            {
                "Sid": "WeighbridgeList",
                "Effect": "Allow",
                "Principal": {"AWS": OWN},
                "Action": "s3:ListBucket",
                "Resource": "arn:aws:s3:::acme",
                "Condition": {"StringLike": {"s3:prefix": "models/a/*"}},
            },
            {
                "Sid": "WeighbridgeLocation",
                "Effect": "Allow",
                "Principal": {"AWS": OWN},
                "Action": "s3:GetBucketLocation",
                "Resource": "arn:aws:s3:::acme",
            },
        ],
    }
    assert setup.key_statement == {
        "Sid": "WeighbridgeDecrypt",
        "Effect": "Allow",
        "Principal": {"AWS": OWN},
        "Action": "kms:Decrypt",
        "Resource": "*",
    }


def test_through_the_shared_role_only_sessions_of_this_org_come_in() -> None:
    reader = Reader(S3Prefix("acme", ""), SHARED, "ext-1", shared=True)
    setup = setup_of(reader, SERVER)
    mark = f"*:{reader.session_name}"
    read, listed, location = setup.bucket_policy["Statement"]
    assert read["Resource"] == "arn:aws:s3:::acme/*"
    assert read["Condition"] == {"StringLike": {"aws:userid": mark}}
    assert listed["Condition"] == {"StringLike": {"s3:prefix": "*", "aws:userid": mark}}
    assert location["Condition"] == {"StringLike": {"aws:userid": mark}}
    assert "aws:userid" not in str(setup.role_policy)
    other = Reader(S3Prefix("acme", ""), SHARED, "ext-2", shared=True)
    assert other.session_name != reader.session_name
    assert len(other.session_name) <= 64


def test_without_any_role_the_servers_identity_reads() -> None:
    setup = setup_of(Reader(S3Prefix("acme", "m"), None, "ext-1", shared=True), SERVER)
    assert {statement["Principal"]["AWS"] for statement in setup.bucket_policy["Statement"]} == {
        SERVER
    }
    assert "aws:userid" not in str(setup.bucket_policy)
    assert setup.key_statement is None
