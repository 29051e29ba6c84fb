"""What goes over the agent's socket, and what is refused before it does harm."""

import dataclasses

import msgspec
import pytest

from weighbridge.errors import InvalidError, LimitError, UnavailableError
from weighbridge.runtimes import wire
from weighbridge.runtimes.base import ReplicaSpec, Weights
from weighbridge.runtimes.incarnation import INHERITED, describe_end, fill

GOOD = ReplicaSpec("r1", ["engine"], Weights("d", "/m", 1), secrets={"TOKEN": "s3cret"})


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "../etc"},
        {"name": "r" * 128},
        {"argv": []},
        {"argv": ["engine\0"]},
        {"env": {"A=B": "c"}},
        {"secrets": {"": "c"}},
        {"labels": {"long": "x" * 5000}},
        {"grace_s": -1.0},
        {"grace_s": float("nan")},
        {"log_bytes_max": 10},
    ],
)
def test_a_malformed_spec_is_refused_without_its_secrets(changes):
    with pytest.raises(InvalidError) as refused:
        wire.check_spec(dataclasses.replace(GOOD, **changes))
    assert "s3cret" not in refused.value.message


def test_a_call_survives_the_wire():
    wire.check_spec(GOOD)
    line = msgspec.json.encode(wire.Launch(GOOD))
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=wire.Request).spec == GOOD


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InvalidError("bad"), InvalidError),
        (LimitError("full"), LimitError),
        (UnavailableError("no"), UnavailableError),
    ],
)
def test_a_refusal_arrives_as_what_it_was(error, raised):
    with pytest.raises(raised, match=error.message):
        wire.raise_refusal(wire.refusal(error))


def test_what_a_placeholder_is_filled_with_is_not_searched_again():
    values = {"{model}": "/m/{port}", "{host}": "h", "{port}": "1"}
    assert fill('--at={host}:{port} {model} {"a": {b}}', values) == '--at=h:1 /m/{port} {"a": {b}}'


@pytest.mark.parametrize("name", ["PATH", "LC_ALL", "CUDA_HOME", "PYTHONPATH"])
def test_an_engine_inherits_what_it_needs(name):
    assert INHERITED.fullmatch(name)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "WEIGHBRIDGE_DATABASE_URL", "XPATH"])
def test_an_engine_inherits_no_secret_of_the_server(name):
    assert not INHERITED.fullmatch(name)


@pytest.mark.parametrize(
    ("exit_code", "stop_asked", "words"),
    [
        (0, False, "exited with code 0"),
        (-9, False, "ended by SIGKILL"),
        (-40, False, "ended by signal 40"),
        (-15, True, "stopped; ended by SIGTERM"),
        (None, False, "ended"),
    ],
)
def test_the_end_of_an_engine_reads_as_a_sentence(exit_code, stop_asked, words):
    assert describe_end(exit_code, stop_asked=stop_asked) == words
