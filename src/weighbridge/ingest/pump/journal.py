"""How far each part of a staged file has come; a line is believed only after its bytes were hashed again (W6)."""

import io
from dataclasses import dataclass
from pathlib import Path

import msgspec

from weighbridge.ingest.pump.writer import disk_fault

JOURNAL_SUFFIX = ".journal"
JOURNAL_BYTES_MAX = 64 * 1024 * 1024


class _Line(msgspec.Struct):
    part: int
    size_bytes: int
    blake3: str


@dataclass(frozen=True, slots=True)
class Noted:
    """The first `size_bytes` of a part lie in staging and hash to `digest`."""

    size_bytes: int
    digest: str


class Journal:
    """Threads may note at the same time. SourceError when the disk takes no more."""

    def __init__(self, staged: Path) -> None:
        self._path = staged.with_name(staged.name + JOURNAL_SUFFIX)
        self.found, end = _read(self._path)
        """The last note of each part, of an earlier claim."""
        self._file: io.FileIO = self._path.open("ab", buffering=0)
        self._file.truncate(end)  # a line cut short must not swallow the next one

    def note(self, index: int, size_bytes: int, digest: bytes) -> None:
        line = msgspec.json.encode(_Line(index, size_bytes, digest.hex())) + b"\n"
        try:
            self._file.write(line)  # one write that appends: lines of several threads do not mix
        except OSError as error:
            raise disk_fault(error) from error

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()


def _read(path: Path) -> tuple[dict[int, Noted], int]:
    """What the journal says, and where its last whole line ends."""
    found: dict[int, Noted] = {}
    end = 0
    try:
        with path.open("rb") as file:
            content = file.read(JOURNAL_BYTES_MAX)
    except FileNotFoundError:
        return found, end
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            entry = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            break
        found[entry.part] = Noted(entry.size_bytes, entry.blake3)
        end += len(line)
    return found, end
