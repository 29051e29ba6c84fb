"""The file of a backup: a tar with `backup.json`, the database's dump, and the pepper when it was asked for."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from weighbridge.errors import SetupError

FORMAT = 1
FACTS, DUMP, PEPPER = "backup.json", "database.dump", "pepper"
FACTS_BYTES_MAX = 64 * 1024
PEPPER_BYTES_MAX = 4096


class Facts(msgspec.Struct, frozen=True):
    """`pepper_mark` tells whether a data directory's pepper is the one whose digests are in the dump."""

    format: int
    weighbridge: str
    schema: str
    taken_at: str
    pepper_mark: str


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place beside `path` that takes its name, durably, at the end of the block; nobody else may read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.touch(mode=0o600, exist_ok=False)
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def pack(path: Path, facts: Facts, dump: Path, pepper: bytes | None) -> None:
    with tarfile.open(path, "w") as archive:
        _add(archive, FACTS, msgspec.json.format(msgspec.json.encode(facts)))
        archive.add(dump, arcname=DUMP, filter=_anonymous)
        if pepper is not None:
            _add(archive, PEPPER, pepper)


def read_facts(path: Path) -> Facts:
    """SetupError for a file that is no backup, or one of a format this program does not know."""
    try:
        with tarfile.open(path) as archive:
            facts = msgspec.json.decode(_read(archive, FACTS, FACTS_BYTES_MAX), type=Facts)
    except (tarfile.TarError, KeyError, msgspec.MsgspecError) as error:
        raise SetupError(f"{path} is not a backup of Weighbridge.", code="no_backup") from error
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}.", code="no_backup") from error
    if facts.format != FORMAT:
        raise SetupError(
            f"{path} is a backup of format {facts.format}; this Weighbridge reads {FORMAT}.",
            code="backup_format",
        )
    return facts


def unpack_dump(path: Path, target: Path) -> None:
    with tarfile.open(path) as archive, target.open("wb") as file:
        source = archive.extractfile(DUMP)
        assert source is not None
        while chunk := source.read(1024 * 1024):
            file.write(chunk)


def read_pepper(path: Path) -> bytes | None:
    """None for a backup without it."""
    with tarfile.open(path) as archive:
        return _read(archive, PEPPER, PEPPER_BYTES_MAX) if PEPPER in archive.getnames() else None


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


def _read(archive: tarfile.TarFile, name: str, bytes_max: int) -> bytes:
    source = archive.extractfile(name)
    if source is None:
        raise KeyError(name)
    return source.read(bytes_max)
