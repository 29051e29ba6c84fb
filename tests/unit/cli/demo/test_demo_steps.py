"""The demo's parts: what counts as an answer, what the verdict rests on, and the customer's side."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from weighbridge.cli.demo import bucket as customer
from weighbridge.cli.demo.process import Child, free_ports
from weighbridge.cli.demo.report import Result
from weighbridge.cli.demo.stage import find_models
from weighbridge.cli.demo.traffic import NOTHING, Tally, Traffic, version_of
from weighbridge.errors import SetupError
from weighbridge.sdk import Client

CHAT = "/v1/chat/completions"
SUFFIXES = {"1": "v1", "2": "v2"}


def chunk(text, fingerprint, finish=None):
    choice = {"delta": {"content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "system_fingerprint": fingerprint})


WHOLE = [chunk("one", "fp_1-v1"), chunk(" two", "fp_1-v1", "stop"), "[DONE]"]


def traffic(server, answers: int = 8) -> Tally:
    """What clients count who were answered at least this often, or not well once."""
    client = Client(server.url, inference_key="wb_inf_k", retries_max=0)
    with client, Traffic(client, "chat", "Count.", SUFFIXES) as callers:
        callers.wait_for_answers(answers, timeout_s=20)
    return callers.tally()


def test_whole_answers_are_counted_by_version(server, profile):
    server.on("POST", CHAT, WHOLE)
    tally = traffic(server)
    assert tally.clean
    assert set(tally.answered) == {"1"}
    assert tally.answered["1"] >= 8


@pytest.mark.parametrize(
    "stream",
    [
        WHOLE[:1],
        WHOLE[:2],
        [chunk("one", "fp_1-v1"), chunk(" two", "fp_2-v2", "stop"), "[DONE]"],
        [chunk("", "fp_1-v1", "stop"), "[DONE]"],
        [json.dumps({"error": {"message": "lost"}, "status_code": 503})],
    ],
    ids=["broken off", "unmarked end", "two versions", "no text", "error inside"],
)
def test_a_broken_answer_is_counted_as_cut(server, profile, stream):
    server.on("POST", CHAT, stream)
    tally = traffic(server)
    assert not tally.clean
    assert tally.cut > 0
    assert tally.problems


def test_a_refused_answer_is_counted_as_failed_and_not_retried(server, profile):
    server.on("POST", CHAT, (503, {"message": "nothing is ready"}), WHOLE)
    tally = traffic(server)
    assert tally.failed == 1
    assert tally.problems == ("nothing is ready",)


def test_an_answer_of_no_known_version_is_not_clean(server, profile):
    server.on("POST", CHAT, [chunk("x", "fp_9", "stop"), "[DONE]"])
    assert not traffic(server).clean


def test_version_of_a_fingerprint():
    assert version_of("fp_0123-v2", SUFFIXES) == "2"
    assert version_of("fp_0123-v20", SUFFIXES) == "?"


def result(answered=None, *, failed=0, cut=0, chats=("a", "b", "a")):
    return Result((), chats, NOTHING + Tally(answered or {"1": 5, "2": 5}, failed, cut, ()), 1.0)


@pytest.mark.parametrize(
    ("outcome", "ok"),
    [
        (result(), True),
        (result(failed=1), False),
        (result(cut=1), False),
        (result({"1": 5}), False),
        (result({"1": 5, "2": 5, "?": 1}), False),
        (result(chats=("a", "a", "a")), False),
        (result(chats=("a", "b", "b")), False),
    ],
)
def test_the_verdict_needs_every_part(outcome, ok):
    assert outcome.ok is ok
    assert outcome.document()["ok"] is ok


def test_models_that_are_not_there_are_named_with_the_way_out(tmp_path):
    with pytest.raises(SetupError, match="--models"):
        find_models(tmp_path)


def test_a_child_that_ends_is_reported_with_its_last_words(tmp_path):
    argv = [sys.executable, "-c", "import sys; sys.exit('no port')"]
    child = Child("part", argv, env=os.environ, log=tmp_path / "log")
    child.process.wait(20)
    with pytest.raises(SetupError, match="no port"):
        child.require_running()
    child.stop(grace_s=1)


def test_a_child_that_will_not_end_is_ended(tmp_path):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    child = Child("part", [sys.executable, "-c", code], env=os.environ, log=tmp_path / "log")
    deadline = time.monotonic() + 20
    while "on" not in child.log_tail():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.stop(grace_s=0.1)
    assert child.process.returncode == -signal.SIGKILL


def test_free_ports_are_different():
    assert len(set(free_ports(20))) == 20


@pytest.mark.system
def test_the_bucket_is_read_through_its_role_only(tmp_path: Path):
    """The platform's key reads nothing; the role, with the external id, reads this bucket and writes nothing."""
    model = tmp_path / "llama-v1"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "reference.json").write_text("{}")
    bucket = customer.Bucket(free_ports(1)[0], tmp_path / "log")
    try:
        bucket.prepare([model])
        role = bucket.grant("ext-1")
        with pytest.raises(ClientError, match="AccessDenied"):
            _s3(bucket, bucket.platform_key).list_objects_v2(Bucket=customer.BUCKET)
        with pytest.raises(ClientError, match="AccessDenied"):
            _assumed(bucket, role, "ext-2")
        reader = _s3(bucket, *_assumed(bucket, role, "ext-1"))
        found = reader.list_objects_v2(Bucket=customer.BUCKET)["Contents"]
        assert [item["Key"] for item in found] == ["llama-v1/config.json"]
        with pytest.raises(ClientError, match="AccessDenied"):
            reader.put_object(Bucket=customer.BUCKET, Key="x", Body=b"x")
    finally:
        bucket.stop()


def _s3(bucket, key, token=None):
    return _session(key, token).client("s3", endpoint_url=bucket.url)


def _assumed(bucket, role, external_id):
    sts = _session(bucket.platform_key).client("sts", endpoint_url=bucket.url)
    given = sts.assume_role(RoleArn=role, RoleSessionName="test", ExternalId=external_id)
    made = given["Credentials"]
    key = customer.AccessKey(made["AccessKeyId"], made["SecretAccessKey"])
    return key, made["SessionToken"]


def _session(key, token=None):
    return boto3.Session(
        aws_access_key_id=key.id,
        aws_secret_access_key=key.secret,
        aws_session_token=token,
        region_name=customer.REGION,
    )


def test_the_program_starts_without_loading_the_server_or_boto3():
    heavy = ("boto3", "fastapi", "sqlalchemy")
    code = f"import sys, weighbridge.cli.main; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
