"""The profile file: which server, org and keys commands use when neither option nor variable says."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weighbridge.sdk import ConfigurationError
from weighbridge.sdk.client import BASE_URL_DEFAULT

NAMES: Mapping[str, str] = {
    "base_url": "the server's address",
    "org": "the org whose models are meant",
    "api_key": "the management key",
    "admin_key": "the operator's key",
    "inference_key": "the key for chat",
}
SECRETS = ("api_key", "admin_key", "inference_key")
VARIABLES: Mapping[str, str] = {name: f"WEIGHBRIDGE_{name.upper()}" for name in NAMES}


@dataclass(frozen=True, slots=True)
class Connection:
    """What a command uses after options, variables and the profile file were asked, in this order."""

    base_url: str
    org: str | None
    api_key: str | None
    admin_key: str | None
    inference_key: str | None


def config_path(environ: Mapping[str, str]) -> Path:
    if given := environ.get("WEIGHBRIDGE_CONFIG"):
        return Path(given)
    base = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "weighbridge" / "config.toml"


def connection(
    profile: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    base_url: str | None,
    api_key: str | None,
) -> Connection:
    """Pure. `api_key` stands in for whichever key a command needs.

    Keys of the file go to the file's own server only: another address never receives them.
    """
    own_url = profile.get("base_url", BASE_URL_DEFAULT)
    url = base_url or environ.get(VARIABLES["base_url"]) or own_url
    filed = profile if url.rstrip("/") == own_url.rstrip("/") else {}

    def key(name: str) -> str | None:
        return api_key or environ.get(VARIABLES[name]) or filed.get(name)

    return Connection(
        base_url=url,
        org=environ.get(VARIABLES["org"]) or filed.get("org"),
        api_key=key("api_key"),
        admin_key=key("admin_key"),
        inference_key=key("inference_key"),
    )


def read_profile(path: Path) -> Mapping[str, str]:
    """The file's members that this program knows; empty when there is no file."""
    try:
        members = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The profile file {path} cannot be read: {error}") from error
    return {name: value for name, value in members.items() if name in NAMES and value}


def write_profile(path: Path, members: Mapping[str, str]) -> None:
    """Replace the file; mode 600, whole or not at all."""
    lines = ["# Written by `weighbridge config set`. Holds secrets: keep its mode 600.\n"]
    lines += [
        f"{name} = {json.dumps(members[name], ensure_ascii=False)}\n"
        for name in NAMES
        if name in members
    ]
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(lines)
        draft.replace(path)
    except OSError as error:
        raise ConfigurationError(f"The profile file {path} cannot be written: {error}") from error


def with_keys(
    profile: Mapping[str, str], base_url: str, keys: Mapping[str, str]
) -> Mapping[str, str]:
    """The profile with keys of this server added; ConfigurationError where it is another server's."""
    own_url = profile.get("base_url", BASE_URL_DEFAULT)
    if profile and own_url.rstrip("/") != base_url.rstrip("/"):
        raise ConfigurationError(
            f"The profile file belongs to {own_url}, whose keys are not to be mixed with those of {base_url}; "
            "set WEIGHBRIDGE_CONFIG to another file, or do without saving.",
            code="profile_of_another_server",
        )
    return {**profile, "base_url": base_url, **keys}


def with_value(profile: Mapping[str, str], name: str, value: str) -> Mapping[str, str]:
    """The profile with one member set; another server's address takes the stored keys with it."""
    moved = name == "base_url" and profile.get(name, value).rstrip("/") != value.rstrip("/")
    kept = {key: old for key, old in profile.items() if not (moved and key in SECRETS)}
    return {**kept, name: value}


def masked(name: str, value: str) -> str:
    """A value as it may be shown: of a key only its kind and public id, as in `wb_admin_k1…`."""
    if name not in SECRETS:
        return value
    public, separator, _ = value.rpartition("_")
    return f"{public}{separator}…" if public else "…"
