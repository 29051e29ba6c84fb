"""A server that cannot start says why in one sentence, ends with code 78 (6: it may pass) and leaves nothing."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from installation import environment, installed, processes_of, until, weighbridge

pytestmark = pytest.mark.system

AS_ROOT = os.geteuid() == 0


def refused(root: Path, *options: str, code: int = 78, **settings: str) -> str:
    """What `weighbridge up` says on its error output when it does not start."""
    run = weighbridge(environment(root, **settings), "up", *options)
    assert run.returncode == code, run.stdout + run.stderr
    lines = run.stderr.splitlines()
    assert lines[0].startswith("Error: ")
    assert [line.split(":")[0].strip() for line in lines[1:]] in (["code"], ["code", "next"])
    assert processes_of(root) == {}
    return lines[0].removeprefix("Error: ")


def test_a_data_directory_that_is_a_file(public_tmp_path):
    (public_tmp_path / "data").touch()
    said = refused(public_tmp_path)
    assert said == (
        f"The data directory {public_tmp_path}/data cannot be used: File exists. "
        "Choose another with --data-dir or WEIGHBRIDGE_DATA_DIR."
    )


@pytest.mark.parametrize("place", ["/proc/weighbridge", "/dev/null/data"])
def test_a_data_directory_that_cannot_be_made(public_tmp_path, place):
    assert f"The data directory {place} cannot be used: " in refused(
        public_tmp_path, "--data-dir", place
    )


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_a_data_directory_that_may_not_be_written(public_tmp_path):
    (public_tmp_path / "data").mkdir(mode=0o500)
    assert "cannot be used: Permission denied." in refused(public_tmp_path)


@pytest.mark.skipif(not AS_ROOT, reason="only root's database runs as another user")
def test_a_data_directory_that_roots_database_cannot_reach(public_tmp_path):
    closed = public_tmp_path / "closed"
    closed.mkdir(mode=0o700)
    said = refused(public_tmp_path, "--data-dir", str(closed / "data"))
    assert f"who cannot enter {closed} (mode 700)" in said
    assert f"or: chmod o+x {closed}" in said


@pytest.mark.parametrize("url", ["not a url", "mysql://u:secret@127.0.0.1/db", "http://h/db"])
def test_a_database_url_that_is_none(public_tmp_path, url):
    said = refused(public_tmp_path, WEIGHBRIDGE_DATABASE_URL=url)
    assert said.startswith("WEIGHBRIDGE_DATABASE_URL is not the address of a PostgreSQL database;")
    assert "secret" not in said


def test_a_database_that_nobody_serves_may_be_there_when_a_service_manager_tries_again(
    public_tmp_path,
):
    with socket.socket() as deaf:  # bound, so that nobody else listens there either
        deaf.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{deaf.getsockname()[1]}/wb"
        url = f"postgresql://u:secret@{place}"
        said = refused(public_tmp_path, code=6, WEIGHBRIDGE_DATABASE_URL=url)
    assert said.startswith(f"The database at {place} cannot be used: connection failed")
    assert "Connection refused" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PORT", "http", "WEIGHBRIDGE_PORT: Input should be a valid integer"),
        ("BAKE_S", "-1", "WEIGHBRIDGE_BAKE_S: Input should be greater than or equal to 0"),
        ("STATE_VOCABULARY", "own", "WEIGHBRIDGE_STATE_VOCABULARY: Input should be 'enum'"),
    ],
)
def test_settings_without_a_meaning(public_tmp_path, name, value, problem):
    assert problem in refused(public_tmp_path, **{f"WEIGHBRIDGE_{name}": value})


def test_ports_in_use(public_tmp_path):
    with socket.socket() as taken, socket.socket() as other:
        for one in (taken, other):
            one.bind(("127.0.0.1", 0))
            one.listen()
        number, another = (str(one.getsockname()[1]) for one in (taken, other))
        for name in ("PORT", "PROBE_PORT"):
            ports = {"WEIGHBRIDGE_PORT": "0", "WEIGHBRIDGE_PROBE_PORT": "0"}
            said = refused(public_tmp_path, **{**ports, f"WEIGHBRIDGE_{name}": number})
            assert said.startswith(f"Port {number} on 127.0.0.1 is in use by another program;")
        assert another not in said


@pytest.mark.skipif(not AS_ROOT, reason="a small disk to fill is root's to mount")
@pytest.mark.parametrize("size", ["4k", "8m"])
def test_a_full_disk(public_tmp_path, size):
    with small_disk(public_tmp_path / "small", size) as disk:
        said = refused(public_tmp_path, "--data-dir", str(disk / "data"))
    assert "disk is full" in said or "No space left on device" in said


def test_a_second_server_on_one_directory_is_refused_and_the_first_goes_on(public_tmp_path):
    with installed(public_tmp_path) as site:
        second = weighbridge(site.env, "up")
        assert second.returncode == 78
        assert second.stderr.splitlines()[0] == (
            f"Error: Weighbridge runs already on {site.run_dir.parent} "
            f"(process {site.up.process.pid}); stop it with `weighbridge down`, or "
            "follow it with `weighbridge up --take-over`."
        )
        assert site.answers()
        assert site.up.messages == [
            f"Starting Weighbridge 0.1.0; its data is in {site.run_dir.parent}.",
            f"Weighbridge is ready: {site.url}  (Ctrl-C stops it)",
        ]


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("root may not mount a small disk here")
    try:
        yield place
    finally:
        until(lambda: subprocess.run(["umount", str(place)], check=False).returncode == 0, 10)
