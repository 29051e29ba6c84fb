"""The embedded PostgreSQL: started again after a kill, and its reasons in one sentence."""

import os
import signal
import subprocess
import sys

import pytest

from weighbridge.errors import SetupError
from weighbridge.storage import embedded
from weighbridge.storage.database import driver_url


def postmaster(directory):
    return int((directory / "postmaster.pid").read_text().split("\n", 1)[0])


def test_it_starts_again_after_a_kill_although_a_zombie_has_its_number(public_tmp_path):
    directory = public_tmp_path / "postgres"
    url = embedded.start(directory)
    try:
        killed = postmaster(directory)
        os.kill(killed, signal.SIGKILL)
        zombie = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        for name in ("postmaster.pid", f"{embedded.SOCKET_NAME}.lock"):
            lock = directory / name
            lock.write_text(lock.read_text().replace(str(killed), str(zombie.pid), 1))
        assert not embedded.is_running(directory)
        assert embedded.start(directory) == url
        assert postmaster(directory) not in (killed, zombie.pid)
        zombie.wait()
    finally:
        embedded.stop(directory)
    assert not embedded.is_running(directory)


@pytest.mark.parametrize(
    ("log", "said", "sentence"),
    [
        ("", ["initdb: error: could not write: No space left on device"], "The disk is full: "),
        (
            'x FATAL:  could not write "a": No space left on device\n',
            ["stopped"],
            "The disk is full",
        ),
        (
            "x FATAL:  bad\ny LOG:  shut down\n",
            ["pg_ctl: could not start"],
            "(pg_ctl): x FATAL:  bad",
        ),
        ("", ["one", "two"], "(pg_ctl): two"),
        ("", [], "(pg_ctl): no output"),
    ],
)
def test_the_reason_is_the_line_that_names_the_cause(tmp_path, log, said, sentence):
    (tmp_path / "log").write_text(log)
    assert sentence in embedded._explain(tmp_path, "pg_ctl", said)


@pytest.mark.parametrize("url", ["", "nothing", "mysql://u:secret@h/db", "sqlite:///file"])
def test_only_the_address_of_a_postgresql_database_is_taken(url):
    with pytest.raises(SetupError, match="not the address of a PostgreSQL database") as refusal:
        driver_url(url)
    assert "secret" not in refusal.value.message


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_both_names_of_postgresql_are_taken(scheme):
    assert driver_url(f"{scheme}://u:p@h/db").drivername == "postgresql+psycopg"
