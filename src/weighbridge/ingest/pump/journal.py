"""Which parts of a staged file are whole: one line per part, believed only after its bytes were hashed again (W6)."""

import io
from pathlib import Path

import msgspec

JOURNAL_SUFFIX = ".journal"
JOURNAL_BYTES_MAX = 64 * 1024 * 1024


class _Line(msgspec.Struct):
    part: int
    blake3: str


class Journal:
    def __init__(self, staged: Path) -> None:
        self._path = staged.with_name(staged.name + JOURNAL_SUFFIX)
        self.found, end = _read(self._path)
        """Part digests by part, of an earlier claim."""
        self._file: io.FileIO = self._path.open("ab", buffering=0)
        self._file.truncate(end)  # a line cut short must not swallow the next one

    def note(self, index: int, digest: bytes) -> None:
        self._file.write(msgspec.json.encode(_Line(index, digest.hex())) + b"\n")

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()


def _read(path: Path) -> tuple[dict[int, str], int]:
    """What the journal says, and where its last whole line ends."""
    found: dict[int, str] = {}
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
        found[entry.part] = entry.blake3
        end += len(line)
    return found, end
