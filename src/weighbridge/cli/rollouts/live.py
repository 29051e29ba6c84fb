"""A rollout as it happens: in place on a terminal, as one line per change elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from weighbridge.cli.output import Output, plain
from weighbridge.cli.watch import ROLLOUT_WORDS
from weighbridge.sdk import DeploymentDetail

STEPS_SHOWN = 12
BAR_COLUMNS = 30
DOTS_MAX = 32
"""Replicas of one version drawn one by one; beyond that only counted."""

# In the order of a replica's life: how it is drawn, and in which colour.
STATES: Mapping[str, tuple[str, str]] = {
    "ready": ("●", "green"),
    "warming": ("◑", "cyan"),
    "starting": ("◔", "cyan"),
    "pending": ("○", "blue"),
    "draining": ("◌", "yellow"),
    "stopping": ("·", "yellow"),
    "failing": ("✗", "red"),
}
COLOURS = {"done": "green", "in_progress": "cyan", "not_started": "blue"}

Counts = Mapping[int, Mapping[str, int]]


def counts_of(detail: DeploymentDetail) -> Counts:
    """By version, newest first: how many replicas are in each state, in the order of their lives."""
    found: dict[int, dict[str, int]] = {}
    for one in detail.replicas or ():
        found.setdefault(one.version_id, {})[one.state] = one.count
    order = {state: place for place, state in enumerate(STATES)}
    return {
        version: dict(sorted(found[version].items(), key=lambda item: order.get(item[0], 99)))
        for version in sorted(found, reverse=True)
    }


def replicas_line(detail: DeploymentDetail) -> str:
    """As in `version 2: 1 ready, 1 starting; version 1: 2 ready`."""
    counts = counts_of(detail)
    return "; ".join(f"version {version}: {_words(states)}" for version, states in counts.items())


def _words(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {plain(state)}" for state, count in states.items())


def elapsed(seconds: float) -> str:
    """As in `0:42` and `1:02:03`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LiveRollout:
    """Call it with each answer; a context manager that owns the screen. `now` is in unix seconds."""

    def __init__(self, output: Output, now: Callable[[], float] = time.time) -> None:
        self._output = output
        self._now = now
        self._said: tuple[str, str] | None = None
        self._steps: deque[Text] = deque(maxlen=STEPS_SHOWN)
        self._detail: DeploymentDetail | None = None
        shows = output.err.is_terminal and not output.as_json
        self._live = (
            Live(console=output.err, refresh_per_second=4, get_renderable=self._picture)
            if shows
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if isinstance(error, KeyboardInterrupt):
            self._output.note("No longer watched; the rollout goes on.")

    def __call__(self, detail: DeploymentDetail) -> None:
        self._detail = detail
        state, replicas = _sentence(detail), replicas_line(detail)
        if (state, replicas) == self._said:
            return
        news = [state] if self._said is None or state != self._said[0] else []
        if replicas and (self._said is None or replicas != self._said[1]):
            news.append(replicas)
        self._said = (state, replicas)
        at = elapsed(self._elapsed_s(detail))
        if self._live is None:
            self._output.note(f"{at:>7}  {' | '.join(news)}")
            return
        for line, words in enumerate(news):
            self._steps.append(Text(f"{at if line == 0 else '':>7}  {words}", overflow="ellipsis"))
        self._live.refresh()

    def _elapsed_s(self, detail: DeploymentDetail) -> float:
        began = detail.started if detail.started is not None else detail.deployment.created
        return (self._now() if detail.finished is None else detail.finished) - began

    def _picture(self) -> RenderableType:
        if self._detail is None:
            return Text("asking for the deployment")
        return picture(self._detail, self._elapsed_s(self._detail), tuple(self._steps))


def _sentence(detail: DeploymentDetail) -> str:
    deployment = detail.deployment
    word = ROLLOUT_WORDS.get(deployment.state, deployment.state)
    why = deployment.error_message or deployment.reason
    return plain(f"{word}: {why}" if why and why != word else word)


def picture(detail: DeploymentDetail, elapsed_s: float, steps: Sequence[Text]) -> RenderableType:
    """What stands on the screen: what is rolled out, how far, every replica, and the last steps."""
    deployment = detail.deployment
    base = detail.base_version_id
    moves = f"version {base} → {deployment.version}" if base else f"version {deployment.version}"
    head = Text(plain(f"{deployment.endpoint_id}: {moves}"), style="bold")
    head.append(f"   {deployment.id}", style="dim")
    parts: list[RenderableType] = [head, _progress(detail, elapsed_s)]
    if counts := counts_of(detail):
        parts += [Text(), _replicas(counts, deployment.version)]
    if steps:
        parts += [Text(), *steps]
    return Group(*parts)


def _progress(detail: DeploymentDetail, elapsed_s: float) -> Table:
    deployment = detail.deployment
    colour = COLOURS.get(deployment.state, "green" if deployment.succeeded else "red")
    word = plain(ROLLOUT_WORDS.get(deployment.state, deployment.state))
    row: list[RenderableType] = [Text(word, style=f"bold {colour}")]
    total, updated = deployment.total_replicas or 0, deployment.updated_replicas or 0
    if total:
        row.append(
            ProgressBar(
                total=total, completed=min(updated, total), width=BAR_COLUMNS, complete_style=colour
            )
        )
        row.append(Text(f"{updated}/{total} replicas"))
    row.append(Text(elapsed(elapsed_s), style="dim"))
    line = Table.grid(padding=(0, 2))
    line.add_row(*row)
    return line


def _replicas(counts: Counts, target: str) -> Table:
    grid = Table.grid(padding=(0, 2))
    for version, states in counts.items():
        dots = Text()
        for state, count in states.items():
            mark, colour = STATES.get(state, ("?", "red"))
            dots.append((mark + " ") * min(count, max(0, DOTS_MAX - len(dots) // 2)), style=colour)
        style = "bold" if str(version) == target else ""
        grid.add_row(Text(f"version {version}", style=style), dots, Text(_words(states)))
    return grid
