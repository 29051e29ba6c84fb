"""What a customer may have meant: other spellings of a URI, folders near a misspelt prefix. Pure."""

import difflib
import re
from collections.abc import Sequence

from weighbridge.ingest.doctor.model import LookAlike
from weighbridge.ingest.model import S3Prefix
from weighbridge.weights.strict_json import shown

NEAR_MISSES_MAX = 5
SIMILARITY_MIN = 0.6

_ARN = re.compile(r"arn:aws[a-z-]*:s3:+([a-z0-9.-]+)/(.+)", re.ASCII)
_VIRTUAL_HOST = re.compile(
    r"https?://([a-z0-9.-]+)\.s3[.-][a-z0-9.-]*amazonaws\.com(?:\.cn)?/(.+)", re.ASCII
)
_PATH_HOST = re.compile(
    r"https?://s3[.-][a-z0-9.-]*amazonaws\.com(?:\.cn)?/([a-z0-9.-]+)/(.+)", re.ASCII
)
_SCHEME = re.compile(r"(?:S3|s3a|s3n|S3A|S3N)://([^/]+)/(.+)", re.ASCII)


def other_spelling(uri: str) -> LookAlike | None:
    """The s3:// URI behind an ARN, a web address or another scheme."""
    for pattern, code, what in (
        (_ARN, "URI_IS_ARN", "This is an ARN"),
        (_VIRTUAL_HOST, "URI_IS_URL", "This is a web address"),
        (_PATH_HOST, "URI_IS_URL", "This is a web address"),
        (_SCHEME, "URI_SCHEME", "The scheme is another one"),
    ):
        if match := pattern.fullmatch(uri.split("?", 1)[0]):
            suggestion = f"s3://{match[1]}/{match[2].strip('/').removesuffix('/*')}"
            return LookAlike(code, f"{what}; weight_uri is written s3://bucket/prefix.", suggestion)
    return None


def colons(role_arn: str) -> LookAlike | None:
    """A role's ARN with a colon too many or too few around the empty region."""
    parts = [part for part in role_arn.split(":") if part]
    if role_arn.count(":") == 5 or parts[:1] != ["arn"] or len(parts) < 4:
        return None
    account, resource = parts[-2], parts[-1]
    suggestion = f"arn:{parts[1]}:iam::{account}:{resource}"
    message = "An IAM role's ARN has five colons, two of them together before the account."
    return LookAlike("ARN_COLONS", message, suggestion)


def near_misses(
    source: S3Prefix, folders: Sequence[str], keys: Sequence[str]
) -> Sequence[LookAlike]:
    """Folders beside an empty one that may have been meant; `folders` and `keys` are whole, as S3 lists them."""
    if source.prefix in keys:
        above = source.parent.removesuffix("/")
        message = (
            f"{shown(source.prefix, 200)} is an object. weight_uri names the folder it lies in."
        )
        return [LookAlike("PREFIX_IS_OBJECT", message, _uri(source, above) if above else None)]
    wanted = source.prefix.rpartition("/")[2]
    names = {folder.removesuffix("/").rpartition("/")[2]: folder for folder in folders}
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(
        wanted.casefold(), folded, n=NEAR_MISSES_MAX, cutoff=SIMILARITY_MIN
    )
    longer = [name for name in folded if name.startswith(wanted.casefold())]
    chosen = list(dict.fromkeys([*close, *sorted(longer)]))[:NEAR_MISSES_MAX]
    return [
        LookAlike(
            "PREFIX_NEAR_MISS",
            f"Nothing lies under {shown(source.folder, 200)}, but this folder is beside it.",
            _uri(source, names[folded[name]].removesuffix("/")),
        )
        for name in chosen
    ]


def inner_folders(source: S3Prefix, folders: Sequence[str]) -> Sequence[LookAlike]:
    """Folders inside one that itself holds no weights."""
    return [
        LookAlike(
            "WEIGHTS_IN_SUBFOLDER",
            "Weights are read from one folder, without those inside it.",
            _uri(source, folder.removesuffix("/")),
        )
        for folder in sorted(folders)[:NEAR_MISSES_MAX]
    ]


def _uri(source: S3Prefix, prefix: str) -> str:
    return f"s3://{source.bucket}/{prefix}"
