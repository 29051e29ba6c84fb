"""What goes wrong is said on stderr, with a code and the next step, and decides the exit code."""

import json
import socket

import pytest

from weighbridge.cli import main as cli
from weighbridge.cli.session import Exit, exit_code
from weighbridge.sdk import errors

PATH = "/admin/v1/status"


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 3), (403, 3), (404, 4), (409, 5), (422, 2), (429, 6), (500, 6), (503, 6)],
)
def test_the_status_decides_the_exit_code(server, weighbridge, status, code):
    server.on("GET", PATH, (status, {"message": "No.", "code": "because", "param": "x"}))
    run = weighbridge("status")
    assert run.code == code
    assert run.out == ""
    assert "Error: No." in run.err
    assert "code: because (param: x)" in run.err


def test_a_json_error_is_one_document_on_stderr(server, weighbridge):
    server.on("GET", PATH, (409, {"message": "Taken.", "code": "alias_taken"}))
    run = weighbridge("status", "--json")
    assert run.code == 5
    assert run.out == ""
    assert json.loads(run.err) == {
        "error": {
            "message": "Taken.",
            "code": "alias_taken",
            "status": 409,
            "param": None,
            "next_step": "move it with `weighbridge alias move`, or choose another name",
        }
    }


def test_a_server_that_is_not_there_is_named_with_the_next_step(bare, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr("weighbridge.sdk.transport.RETRY_FIRST_S", 0.0)
    monkeypatch.setenv("WEIGHBRIDGE_ADMIN_KEY", "wb_admin_k")
    run = bare("status", "--base-url", f"http://127.0.0.1:{port}")
    assert run.code == 6
    assert f"127.0.0.1:{port}" in run.err
    assert "weighbridge up" in run.err


def test_a_missing_key_is_an_exit_code_of_its_own(bare):
    run = bare("status")
    assert run.code == 3
    assert "WEIGHBRIDGE_ADMIN_KEY" in run.err


def test_a_missing_org_is_a_usage_error(bare, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_API_KEY", "wb_mgmt_k")
    run = bare("versions", "llama")
    assert run.code == 2
    assert "--org" in run.err


@pytest.mark.parametrize("model", ["llama", "llama/", "a/b/c", "orgs/x/models/y"])
def test_what_names_no_version_is_a_usage_error(weighbridge, model):
    run = weighbridge("version", "show", model)
    assert run.code == 2
    assert "ARCHITECTURE/VERSION" in run.err


def test_an_unknown_command_is_a_usage_error(bare):
    assert bare("uplaod").code == 2


def test_control_characters_of_a_message_do_not_reach_the_terminal(server, weighbridge):
    server.on("GET", PATH, (404, {"message": "no \x1b[2J\x07such", "code": "not_found"}))
    assert "\x1b" not in weighbridge("status").err


def test_wrong_settings_end_with_78_and_name_the_variable(bare, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_GATEWAY_WORKERS", "many")
    run = bare("up")
    assert run.code == 78
    assert "WEIGHBRIDGE_GATEWAY_WORKERS" in run.err


def test_an_unexpected_error_is_one_line_and_no_trace(monkeypatch, capsys):
    def broken():
        raise RuntimeError("boom")

    monkeypatch.setattr(cli, "program", broken)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == Exit.FAILED
    assert capsys.readouterr().err == "Error: RuntimeError: boom\n  code: internal_error\n"


def test_operations_that_fail_end_with_1():
    for kind in (errors.SyncFailedError, errors.RolloutFailedError, errors.WaitTimeoutError):
        assert exit_code(kind("m")) is Exit.FAILED
