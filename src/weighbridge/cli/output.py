"""What commands print: tables and sentences for people, one JSON document for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console, RenderableType
from rich.table import Table

PLAIN_WIDTH = 200
"""Columns assumed where the output is not a terminal, so that rows stay on one line."""


class Output:
    """With `as_json`, stdout carries exactly one document; all else goes to stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def show(self, document: Mapping[str, object], view: RenderableType) -> None:
        """Print one of the two forms of a result."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            self.out.print(view)

    def note(self, text: str) -> None:
        """A sentence beside the result; not printed with `--json`."""
        if not self.as_json:
            self.err.print(plain(text), soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    # Names and messages come from the server: no markup, no emoji codes, no guessing of colours.
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    view = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*(cell(value) for value in row))
    return view


def facts(members: Mapping[str, object]) -> Table:
    """One thing: a row for each of its facts that is known."""
    view = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    view.add_column(style="bold", no_wrap=True)
    view.add_column(overflow="fold")
    for name, value in members.items():
        if value is not None:
            view.add_row(name, cell(value))
    return view


def cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case tuple() | list():
            return ", ".join(cell(item) for item in value) or "-"
        case Mapping():
            return ", ".join(f"{name}={cell(item)}" for name, item in value.items()) or "-"
        case _:
            return plain(str(value)) or "-"


def plain(text: str) -> str:
    """Text without control characters: what a server or a model says must not steer the terminal."""
    return "".join(letter for letter in text if letter in "\n\t" or not _steers(letter))


def _steers(letter: str) -> bool:
    return letter < " " or "\x7f" <= letter <= "\x9f"


def moment(unix_s: int | None) -> str | None:
    """A time of the wire as people read it, in UTC."""
    if unix_s is None:
        return None
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def quantity(size_bytes: int) -> str:
    """Bytes with a unit, as in `2.7 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: int) -> str:
    """A length of time in its largest unit, as in `90 s` and `12 min`."""
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
