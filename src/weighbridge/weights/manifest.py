"""The manifest: the list of a version's files with sizes and digests, and the digest that names the version's bytes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
from blake3 import blake3

from weighbridge.errors import InvalidError

MANIFEST_FILE = "weighbridge-manifest.json"
"""Lies in each version directory; no file of a version may have this name."""

FILES_MAX = 4_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEPTH_MAX = 8


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    path: str
    size_bytes: int
    digest: str

    def __post_init__(self) -> None:
        if not safe_path(self.path) or self.path == MANIFEST_FILE:
            raise InvalidError(f"{self.path!a} cannot be a file of a version.", code="BAD_NAME")
        if not is_digest(self.digest) or self.size_bytes < 0:
            raise InvalidError(f"The entry of {self.path} is malformed.", code="BAD_MANIFEST")


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files` sorted by path, each path once, none of them the folder of another."""

    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)) or len(paths) > FILES_MAX:
            raise InvalidError("A manifest's paths are sorted and unique.", code="BAD_MANIFEST")
        folders = {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}
        if folders & set(paths):
            raise InvalidError("A manifest's path is both file and folder.", code="BAD_MANIFEST")

    @staticmethod
    def of(files: Iterable[FileEntry]) -> "Manifest":
        return Manifest(tuple(sorted(files)))

    @staticmethod
    def decode(content: bytes) -> "Manifest":
        """Raises InvalidError for anything that `encode` does not write."""
        try:
            document = msgspec.json.decode(content, type=_Document)
        except msgspec.MsgspecError as error:
            raise InvalidError(f"Not a manifest: {error}", code="BAD_MANIFEST") from error
        return Manifest(tuple(FileEntry(f.path, f.size, f.digest) for f in document.files))

    def encode(self) -> bytes:
        """Canonical: equal manifests have equal bytes."""
        files = [_File(entry.path, entry.size_bytes, entry.digest) for entry in self.files]
        return msgspec.json.encode(_Document(files))

    @property
    def digest(self) -> str:
        return blake3(self.encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)

    def by_path(self) -> Mapping[str, FileEntry]:
        return {entry.path: entry for entry in self.files}


def safe_path(path: str) -> bool:
    """Relative, plain ASCII, no empty, hidden or dot component: it can be joined to a directory as it is."""
    components = path.split("/")
    return len(components) <= _DEPTH_MAX and all(_NAME.fullmatch(part) for part in components)


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    size: int
    digest: str


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    files: list[_File]
