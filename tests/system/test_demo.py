"""The demo, as a new user runs it."""

import json
import tempfile
from pathlib import Path

import pytest
from installation import ANSWERS, environment, processes_of, weighbridge

pytestmark = pytest.mark.system

LIMIT_S = 180.0


def test_the_demo_loses_no_answer_and_leaves_nothing_behind(public_tmp_path: Path) -> None:
    env = environment(public_tmp_path, TMPDIR=str(public_tmp_path))
    run = weighbridge(env, "demo", "--json", limit_s=LIMIT_S)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert found["ok"] is True
    requests = found["requests"]
    assert (requests["failed"], requests["cut"], requests["problems"]) == (0, 0, [])
    assert set(requests["answered"]) == {"1", "2"}
    assert found["chats"] == [ANSWERS[1], ANSWERS[2], ANSWERS[1]]
    assert run.stderr == ""
    assert processes_of(public_tmp_path) == {}
    assert list(public_tmp_path.iterdir()) == []


def test_without_its_s3_server_the_demo_says_what_to_install(public_tmp_path: Path) -> None:
    hidden = public_tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'moto' else find(name, *rest)\n"
    )
    env = environment(public_tmp_path, PYTHONPATH=str(public_tmp_path))
    run = weighbridge(env, "demo")
    assert run.returncode == 78
    assert "(moto); run: pip install 'weighbridge[demo]'" in run.stderr
    assert "Traceback" not in run.stderr


def test_without_its_models_the_demo_says_where_it_looked(public_tmp_path: Path) -> None:
    run = weighbridge(environment(public_tmp_path), "demo", "--models", str(tempfile.gettempdir()))
    assert run.returncode == 78
    assert f"are not in {tempfile.gettempdir()}; run it in a clone" in run.stderr
