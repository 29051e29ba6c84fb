"""`up` and `down` hand over to the server and say what it reports; the server itself is stood in for."""

import json
import sys
from types import SimpleNamespace

import pytest

from weighbridge.errors import SetupError

KEY = "wb_admin_k1_SECRET"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """What the server was started with; `failure` and `code` decide how it ends."""
    seen = SimpleNamespace(settings=None, failure=None, code=0)

    def up(settings, *, on_event, on_first_key, take_over):
        seen.settings, seen.take_over = settings, take_over
        if seen.failure is not None:
            raise seen.failure
        on_event("database ready")
        on_first_key(KEY)
        on_event("listening")
        return seen.code

    def down(settings):
        seen.settings = settings
        return seen.code

    monkeypatch.setitem(sys.modules, "weighbridge.server.up", SimpleNamespace(up=up, down=down))
    monkeypatch.setenv("WEIGHBRIDGE_DATA_DIR", str(tmp_path / "data"))
    return seen


def test_up_names_the_variables_that_mean_nothing(bare, machine, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_BAKES_S", "1")
    monkeypatch.setenv("WEIGHBRIDGE_QQQ", "1")
    monkeypatch.setenv("WEIGHBRIDGE_BASE_URL", "http://127.0.0.1:1")
    run = bare("up")
    assert run.code == 0
    assert "WEIGHBRIDGE_BAKES_S is no setting. Is WEIGHBRIDGE_BAKE_S meant?" in run.err
    assert "WEIGHBRIDGE_QQQ is no setting.\n" in run.err
    assert "WEIGHBRIDGE_BASE_URL is" not in run.err


def test_up_shows_the_admin_key_once_and_what_to_do_next(bare, machine):
    run = bare("up", "--port", "9000")
    assert run.code == 0
    assert run.out.count(KEY) == 1
    assert "weighbridge config set admin_key" in run.out
    assert run.out.index("database ready") < run.out.index(KEY) < run.out.index("listening")
    assert machine.settings.port == 9000


def test_up_as_json_is_a_document_per_line(bare, machine):
    run = bare("up", "--json")
    assert [json.loads(line) for line in run.out.splitlines()] == [
        {"event": "progress", "message": "database ready"},
        {"event": "admin_key", "key": KEY},
        {"event": "progress", "message": "listening"},
    ]


def test_up_stores_the_key_instead_of_printing_it(bare, machine, profile):
    run = bare("up", "--save-key", "--host", "0.0.0.0", "--port", "9000")
    assert KEY not in run.out + run.err
    assert f'admin_key = "{KEY}"' in profile.read_text()
    assert 'base_url = "http://127.0.0.1:9000"' in profile.read_text()
    assert profile.stat().st_mode & 0o777 == 0o600


def test_up_does_not_start_when_the_key_could_not_be_stored(bare, machine, profile):
    profile.parent.mkdir()
    profile.write_text('base_url = "https://other.test"\n')
    assert bare("up", "--save-key").code == 78
    assert machine.settings is None


def test_an_unfit_machine_ends_with_78_and_the_servers_words(bare, machine):
    machine.failure = SetupError("Port 8080 is taken.")
    run = bare("up")
    assert run.code == 78
    assert "Port 8080 is taken." in run.err


def test_the_servers_exit_code_is_passed_on(bare, machine):
    machine.code = 7
    assert bare("up").code == 7


@pytest.mark.parametrize("words", [("up",), ("up", "--take-over")])
def test_up_follows_another_one_only_when_that_is_asked_for(bare, machine, words):
    assert bare(*words).code == 0
    assert machine.take_over == ("--take-over" in words)


def test_ctrl_c_is_130(bare, machine):
    machine.failure = KeyboardInterrupt()
    assert bare("up").code == 130


@pytest.mark.parametrize(("code", "stopped"), [(0, True), (1, False)])
def test_down_says_whether_everything_is_stopped(bare, machine, tmp_path, code, stopped):
    machine.code = code
    run = bare("down", "--data-dir", str(tmp_path / "other"), "--json")
    assert run.code == code
    assert run.document == {"stopped": stopped, "data_dir": str(tmp_path / "other")}
