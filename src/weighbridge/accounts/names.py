"""What names of orgs and keys may look like, and how a caller's text is shown back to him."""

import re

from weighbridge.errors import InvalidError

ORG_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}", re.ASCII)
KEY_NAME_CHARS_MAX = 100
SHOWN_CHARS_MAX = 80


def quoted(text: str) -> str:
    """A caller's own text for a message: escaped, in quotes and cut, so that no answer echoes at length."""
    cut = text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"
    return ascii(cut) if not cut.isprintable() else f"'{cut}'"


def is_org_name(name: str) -> bool:
    return ORG_NAME.fullmatch(name) is not None


def check_org_name(name: str) -> str:
    if not is_org_name(name):
        raise InvalidError(
            f"{quoted(name)} is not an organization name: 1 to 63 of a-z, 0-9 and -, "
            "beginning and ending with a letter or digit.",
            code="invalid_org_name",
            param="org_name",
        )
    return name


def check_role_arn(arn: str) -> str:
    if not ROLE_ARN.fullmatch(arn):
        raise InvalidError(
            f"{quoted(arn)} is not the ARN of an IAM role (arn:aws:iam::<12 digits>:role/<name>).",
            code="invalid_role_arn",
            param="s3_role_arn",
        )
    return arn


def check_key_name(name: str) -> str:
    if not 1 <= len(name) <= KEY_NAME_CHARS_MAX or not name.isprintable() or name != name.strip():
        raise InvalidError(
            f"{quoted(name)} is not a key's name: 1 to {KEY_NAME_CHARS_MAX} printable characters, "
            "no space at either end.",
            code="invalid_key_name",
            param="name",
        )
    return name
