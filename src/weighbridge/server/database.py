"""The database while `up` runs: the team's own, or the embedded one, which is started again when it dies."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weighbridge.errors import SetupError
from weighbridge.settings import Settings
from weighbridge.storage import embedded

WATCH_PERIOD_S = 0.5
WATCH_PERIOD_MAX_S = 10.0
TELL_AFTER_FAILURES = 3
"""Orphans of a killed server hold its memory for a moment, so the first tries may fail."""

OnText = Callable[[str], None]


@contextmanager
def running_database(
    settings: Settings, tell: OnText, stays: Callable[[], bool] = lambda: False
) -> Iterator[str]:
    """Its URL; on leaving, the embedded one is stopped unless it `stays`.

    Raises SetupError when it cannot be started.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    directory = settings.paths.postgres
    url = embedded.start(directory)
    try:
        with _kept_running(directory, tell):
            yield url
    finally:
        if not stays():
            embedded.stop(directory)


@contextmanager
def _kept_running(directory: Path, tell: OnText) -> Iterator[None]:
    ended = threading.Event()
    # A thread, for a start may take long and the supervisor must look after the services meanwhile.
    watch = threading.Thread(target=_watch, args=(directory, ended, tell), name="database")
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(directory: Path, ended: threading.Event, tell: OnText) -> None:
    failures = 0
    while not ended.wait(min(WATCH_PERIOD_S * 2.0**failures, WATCH_PERIOD_MAX_S)):
        if embedded.is_running(directory):
            failures = 0
            continue
        try:
            embedded.start(directory)
        except (SetupError, OSError) as error:
            failures = min(failures + 1, 16)
            if failures == TELL_AFTER_FAILURES:
                tell(f"The database has ended and cannot be started: {error}")
        else:
            failures = 0
            tell("The database had ended; it runs again.")
