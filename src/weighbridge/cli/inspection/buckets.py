"""Commands about orgs' buckets: the policies a customer pastes, and which org a bucket is bound to."""

import json
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from weighbridge.cli.output import moment, plain, table
from weighbridge.cli.session import Session, Yes

OrgArgument = Annotated[str, typer.Argument(metavar="ORG", help="The org's name.")]


def s3_setup(
    session: Session,
    org: OrgArgument,
    *,
    bucket: Annotated[str, typer.Option(metavar="BUCKET", help="The bucket with the weights.")],
    prefix: Annotated[
        str, typer.Option(metavar="PREFIX", help="Only what lies under it; else the whole bucket.")
    ] = "",
    kms_key: Annotated[
        str | None, typer.Option(metavar="ARN", help="The KMS key the objects are encrypted with.")
    ] = None,
) -> None:
    """Print the policies that let an org's uploads read a bucket, for its owner to paste."""
    setup = session.client.admin.orgs.s3_setup(org, bucket, prefix=prefix, kms_key_arn=kms_key)
    parts = [
        ("Trust policy of a role of your own", setup.trust_policy),
        ("Permissions of that role", setup.role_policy),
        (
            "Bucket policy, where the role is of another account than the bucket",
            setup.bucket_policy,
        ),
        ("Statement for the policy of the KMS key", setup.key_statement),
    ]
    view = Group(
        *(
            Text(f"# {title}\n{plain(json.dumps(policy, indent=2))}\n")
            for title, policy in parts
            if policy is not None
        )
    )
    session.output.show(setup.raw, view)
    session.output.note("Then name the role here with: weighbridge org set-role ORG ARN")


def buckets(session: Session) -> None:
    """List the buckets that were read, and the org each is bound to."""
    found = session.client.admin.orgs.buckets()
    rows = [
        (one.bucket, one.org_name, one.role_arn or "the shared role", moment(one.bound))
        for one in found
    ]
    session.output.show(
        {"buckets": [one.raw for one in found]},
        table(("BUCKET", "ORG", "PROVEN WITH", "SINCE"), rows),
    )


def release_bucket(
    session: Session,
    bucket: Annotated[str, typer.Argument(metavar="BUCKET", help="As `org buckets` shows it.")],
    yes: Yes = False,
) -> None:
    """Take a bucket off its org; the next org that reads it has it."""
    session.confirm(f"Release bucket {bucket}?", yes=yes)
    answer = session.client.admin.orgs.release_bucket(bucket)
    session.output.show(answer, f"Bucket {bucket} is released.")
