"""Live views of what takes long: a weight sync and a rollout; lines instead where there is no terminal."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
)
from rich.table import Table

from weighbridge.cli.output import Output, duration, plain, quantity, table
from weighbridge.cli.session import Session
from weighbridge.sdk import ClientError, Deployment, ModelVersion, Replica, SyncProgress

SYNC_WORDS = {
    "in_progress": "starting",
    "check": "checking",
    "list": "listing",
    "fetch": "fetching",
    "commit": "publishing",
}
ROLLOUT_WORDS = {
    "not_started": "queued",
    "in_progress": "rolling out",
    "rolling_back": "going back",
    "rolled_back": "went back",
}
"""The API's words as people say them; a word that is not here is shown as it is."""


class SyncView:
    """Call it with each answer; a context manager that owns the bar."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[pace]}"),
            console=output.err,
        )
        self._task = self._bar.add_task("queued", total=None, pace="")
        self._live = output.err.is_terminal and not output.as_json
        self._said = ""

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._bar.stop()

    def __call__(self, version: ModelVersion) -> None:
        progress = version.progress
        if self._live:
            self._bar.update(
                self._task,
                description=plain(_sync_word(version)),
                completed=progress.bytes_done if progress is not None else 0,
                total=(progress.bytes_total or None) if progress is not None else None,
                pace=pace(progress),
            )
        else:
            self._say(sync_line(version))

    def _say(self, line: str) -> None:
        if line != self._said:
            self._output.note(line)
            self._said = line


def pace(progress: SyncProgress | None) -> str:
    """The server's own rate, rest and retries, as in `12.5 MB/s, 3 min left, 2 retries`."""
    if progress is None:
        return ""
    parts = []
    if progress.bytes_per_s:
        parts.append(f"{quantity(progress.bytes_per_s)}/s")
    if progress.eta_s is not None:
        parts.append(f"{duration(progress.eta_s)} left")
    if progress.retries:
        parts.append(f"{progress.retries} retries")
    return ", ".join(parts)


def sync_line(version: ModelVersion) -> str:
    """A sync in one line, as in `version 2: fetching, 1.4 MB of 2.9 MB, 3 of 7 files`."""
    line = f"version {version.version_id}: {_sync_word(version)}"
    if (progress := version.progress) is not None:
        if progress.bytes_total:
            line += f", {quantity(progress.bytes_done)} of {quantity(progress.bytes_total)}"
        if progress.files_total:
            line += f", {progress.files_done} of {progress.files_total} files"
        line += f", {words}" if (words := pace(progress)) else ""
    return plain(line)


def _sync_word(version: ModelVersion) -> str:
    step = version.progress.step if version.progress is not None else ""
    word = step or version.sync_status
    return SYNC_WORDS.get(word, word)


class RolloutView:
    """Call it with each answer; shows counters and reason, and replicas where an admin key is set."""

    def __init__(self, session: Session, now: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._output = session.output
        self._now = now
        self._started = now()
        self._said = ""
        self._sees_replicas = session.connection.admin_key is not None
        self._live = (
            Live(console=self._output.err, refresh_per_second=4)
            if self._output.err.is_terminal and not self._output.as_json
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

    def __call__(self, deployment: Deployment) -> None:
        line = rollout_line(deployment)
        if self._live is not None:
            elapsed_s = self._now() - self._started
            replicas = replica_counts(self._replicas(deployment))
            self._live.update(Group(f"{line}  ({elapsed_s:.0f} s)", replicas))
        elif line != self._said:
            self._output.note(line)
            self._said = line

    def _replicas(self, deployment: Deployment) -> Sequence[Replica]:
        if not self._sees_replicas:
            return ()
        try:
            return self._session.client.admin.replicas.list(deployment.endpoint_id)
        except ClientError:
            # The rollout is what is waited for; its replicas are only decoration.
            self._sees_replicas = False
            return ()


def rollout_line(deployment: Deployment) -> str:
    """A rollout in one line, as in `version 2: rolling out, 1/2 replicas ready on version 2`."""
    word = ROLLOUT_WORDS.get(deployment.state, deployment.state)
    detail = deployment.error_message or deployment.reason
    if not detail and deployment.total_replicas and deployment.updated_replicas is not None:
        detail = f"{deployment.updated_replicas} of {deployment.total_replicas} replicas updated"
    line = f"version {deployment.version}: {word}"
    return plain(f"{line}, {detail}" if detail not in ("", word) else line)


def replica_counts(replicas: Sequence[Replica]) -> Table:
    """How many replicas of each version are in each state; ended ones left out."""
    counts = Counter(
        (replica.version_id, replica.state) for replica in replicas if replica.state != "stopped"
    )
    rows = [(version, state, number) for (version, state), number in sorted(counts.items())]
    return table(("VERSION", "STATE", "REPLICAS"), rows) if rows else Table(box=None)
