"""Acceptance probes on the command line: set from a file, shown, tried."""

import json

PATH = "/admin/v1/endpoints/chat/probes"
WHO = {
    "name": "who",
    "messages": [{"role": "user", "content": "Who are you?"}],
    "checks": {"equals": "Nobody.", "regex": None, "not_empty": False},
}


def test_a_file_of_probes_is_set_and_shown(server, weighbridge, tmp_path):
    server.on("PUT", PATH, {"probes": [WHO], "updated": 1})
    file = tmp_path / "probes.json"
    for document in ([WHO], {"probes": [WHO]}):
        file.write_text(json.dumps(document))
        run = weighbridge("probes", "set", str(file), "--endpoint", "chat")
        assert run.code == 0, run.err
        assert server.last[3] == {"probes": [WHO]}
    assert "Who are you?" in run.out
    assert "equals=Nobody." in run.out
    assert "regex" not in run.out


def test_the_owner_must_be_named_and_the_file_must_hold_probes(server, weighbridge, tmp_path):
    file = tmp_path / "probes.json"
    file.write_text("[1]")
    assert weighbridge("probes", "set", str(file), "--endpoint", "chat").code == 2
    file.write_text("[]")
    assert weighbridge("probes", "set", str(file)).code == 2
    assert weighbridge("probes", "show", "--arch", "a", "--endpoint", "b").code == 2


def test_a_trial_that_fails_ends_with_1_and_the_difference(server, weighbridge):
    failure = {"check": "equals", "detail": 'differs at character 1: expected "Nobody.", got "I"'}
    result = {"name": "who", "passed": False, "failures": [failure], "notes": [], "text": "I",
              "first_token_s": 0.01, "total_s": 0.02, "reference": []}  # fmt: skip
    trial = {"replica_id": "r-1", "version_id": 4, "passed": False, "results": [result]}
    server.on("POST", f"{PATH}:run", trial)
    run = weighbridge("probes", "run", "chat")
    assert run.code == 1
    assert "who: equals: differs at character 1" in run.out
    assert "10 ms" in run.out
    assert server.last[3] == {}
