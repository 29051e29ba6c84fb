"""Deployments on the command line: listed, shown, watched; and what an error says to do next."""

import io

import pytest
from rich.console import Console

from weighbridge.cli.output import Output
from weighbridge.cli.rollouts.live import LiveRollout, elapsed, replicas_line
from weighbridge.sdk import DeploymentDetail

UUID = "550e8400-e29b-41d4-a716-446655440000"
PATH = f"/management/v1/deployments/{UUID}"
BEGAN = 1_736_700_000


def deployed(state, counts=(), **members):
    return {
        "id": UUID,
        "endpoint_id": "chat",
        "model": "orgs/acme/models/llama/versions/2",
        "version_alias": "prod",
        "created": BEGAN,
        "started": BEGAN,
        "state": state,
        "base_version_id": 1,
        "replicas": [
            {"version_id": version, "state": word, "count": count}
            for version, word, count in counts
        ],
        **members,
    }


MOVING = [(1, "ready", 2), (2, "starting", 1)]
HALF = [(1, "draining", 1), (1, "ready", 1), (2, "ready", 1)]
STORY = [
    deployed("not_started", reason="queued", total_replicas=0, updated_replicas=0),
    deployed("in_progress", MOVING, reason="0/2 ready", total_replicas=2, updated_replicas=0),
    deployed("in_progress", MOVING, reason="0/2 ready", total_replicas=2, updated_replicas=0),
    deployed("in_progress", HALF, reason="1/2 ready", total_replicas=2, updated_replicas=1),
    deployed(
        "done", [(2, "ready", 2)], total_replicas=2, updated_replicas=2, finished=BEGAN + 90
    ),
]  # fmt: skip


@pytest.fixture
def fast(monkeypatch):
    """Answers are asked for without pauses."""
    monkeypatch.setattr("weighbridge.sdk.waiting.POLL_FIRST_S", 0.001)
    monkeypatch.setattr("weighbridge.sdk.waiting.POLL_LAST_S", 0.001)


def test_deployments_are_listed_through_all_pages(server, weighbridge):
    first = {"deployments": [deployed("done")], "next_page_token": UUID}
    server.on("GET", "/management/v1/deployments?endpoint_id=chat&status=done&status=error", first)
    second = {"deployments": [deployed("error")]}
    server.on(
        "GET",
        f"/management/v1/deployments?endpoint_id=chat&status=done&status=error&page_token={UUID}",
        second,
    )
    options = ("--endpoint", "chat", "--status", "done", "--status", "error")
    run = weighbridge("deployment", "list", *options)
    assert run.code == 0, run.err
    assert [line.split()[4] for line in run.out.splitlines()[1:]] == ["done", "error"]
    assert weighbridge("deployments", "list", *options, "--limit", "1").out.count("\n") == 2


def test_a_deployment_is_shown_with_its_replicas(server, weighbridge):
    server.on("GET", PATH, STORY[3])
    run = weighbridge("deployment", "show", UUID)
    assert "version 2: 1 ready; version 1: 1 ready, 1 draining" in run.out
    assert weighbridge("deployment", "show", UUID, "--json").document["base_version_id"] == 1


def test_watching_says_each_change_once_and_ends_with_the_rollout(fast, server, weighbridge):
    server.on("GET", PATH, *STORY)
    run = weighbridge("deployment", "watch", UUID)
    assert run.code == 0, run.err
    lines = [line.split(maxsplit=1)[1] for line in run.err.splitlines()]
    assert lines == [
        "queued",
        "rolling out: 0/2 ready | version 2: 1 starting; version 1: 2 ready",
        "rolling out: 1/2 ready | version 2: 1 ready; version 1: 1 ready, 1 draining",
        "done | version 2: 2 ready",
    ]
    assert run.err.splitlines()[-1].split()[0] == "1:30"


def test_watching_what_fails_says_why_and_the_next_step(fast, server, weighbridge):
    server.on("GET", PATH, deployed("rolled_back", error_message="2 replicas failed"))
    run = weighbridge("deployment", "watch", UUID)
    assert run.code == 1
    assert "ended as rolled_back: 2 replicas failed" in run.err
    assert "next: `weighbridge deployment show` tells why" in run.err


def test_a_watch_prints_one_document_for_programs(fast, server, weighbridge):
    server.on("GET", PATH, *STORY)
    run = weighbridge("deployment", "watch", UUID, "--json")
    assert (run.code, run.document["state"], run.err) == (0, "done", "")


def test_on_a_terminal_the_view_is_drawn_in_place():
    output = Output(as_json=False)
    output.err = Console(
        file=io.StringIO(), force_terminal=True, width=100, markup=False, highlight=False
    )
    with LiveRollout(output, now=lambda: BEGAN + 42) as view:
        for answer in STORY:
            view(DeploymentDetail.read(answer))
    drawn = output.err.file.getvalue()
    assert "chat: version 1 → 2" in drawn
    assert "1/2 replicas" in drawn
    assert "1 ready, 1 draining" in drawn
    assert "1:30" in drawn


def test_control_characters_of_a_server_do_not_reach_the_terminal():
    detail = DeploymentDetail.read(
        deployed("in_progress", [(1, "ready\x1b[2J", 1)], reason="\x1b]0;x")
    )
    assert "\x1b" not in replicas_line(detail)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0:00"), (9, "0:09"), (61, "1:01"), (3723, "1:02:03")]
)
def test_elapsed(seconds, text):
    assert elapsed(seconds) == text


def test_an_alias_is_moved_and_its_history_shown(server, weighbridge):
    path = "/management/v1/orgs/acme/models/llama/aliases/prod"
    held = "orgs/acme/models/llama/versions/"
    name = "orgs/acme/models/llama/aliases/prod"
    server.on(
        "POST", f"{path}:move", {"name": name, "model": f"{held}2", "previous_model": f"{held}1"}
    )
    assert weighbridge("alias", "move", "prod", "llama/2", "--from", "1").code == 0
    assert server.last[3] == {"to": "2", "expected": "1"}
    assert weighbridge("alias", "move", "prod", "llama/2", "--from", "nobody").code == 0
    assert server.last[3] == {"to": "2", "expected": None}
    change = {
        "changed": BEGAN,
        "cause": "move",
        "from_version": f"{held}1",
        "to_version": f"{held}2",
    }
    server.on("GET", f"{path}/history?page_size=50", {"name": name, "changes": [change]})
    run = weighbridge("alias", "history", "llama/prod")
    assert run.out.splitlines()[1].split()[3:] == ["1", "2", "move", "-"]


def test_drains_are_forced_after_a_question(server, weighbridge):
    path = "/management/v1/endpoints/chat:forceDrain"
    one = {"replica_id": "r-1", "version_id": 1, "requests": 3, "deadline": 1_770_000_000}
    server.on("POST", path, {"replicas": [one], "message": "1 replica will end."})
    run = weighbridge("endpoint", "force-drain", "chat", "--after-s", "30", "--yes")
    assert run.code == 0, run.err
    assert server.last[3] == {"after_s": 30.0}
    assert run.out.splitlines()[0] == "1 replica will end."
    assert run.out.splitlines()[-1].split()[:3] == ["r-1", "1", "3"]
    server.on("POST", path, {"replicas": [], "message": "No replica drains."})
    assert weighbridge("endpoint", "force-drain", "chat", "--yes").out == "No replica drains.\n"


def test_an_org_scales_within_the_operators_maximum(server, weighbridge, monkeypatch):
    monkeypatch.delenv("WEIGHBRIDGE_ADMIN_KEY")
    path = "/management/v1/endpoints/chat:scale"
    answer = {"replicas": 3, "previous_replicas": 1, "applies": "now", "message": "Goes to 3 now."}
    server.on("POST", path, answer)
    assert weighbridge("endpoint", "scale", "chat", "--replicas", "3").out == "Goes to 3 now.\n"
    refusal = {"message": "Its operator alone.", "code": "scaling_not_allowed"}
    server.on("POST", path, (403, refusal))
    run = weighbridge("endpoint", "scale", "chat", "--replicas", "3")
    assert run.code == 3
    assert "--replicas-max" in run.err


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "x"), (401, "x"), (403, "x"), (404, "x"), (409, "x"), (409, "alias_moved"), (429, "x"), (500, "x")],
)  # fmt: skip
def test_every_error_says_the_next_step(server, weighbridge, status, code):
    server.on("POST", f"{PATH}:cancel", (status, {"message": "No.", "code": code}))
    run = weighbridge("deployment", "cancel", UUID)
    assert "next: " in run.err


FORECAST = {
    "endpoint_id": "chat",
    "version_id": 2,
    "base_version_id": 1,
    "queued_behind": 2,
    "expected_status": "done",
    "reason": "",
    "complete": True,
    "ready_replicas": 1,
    "lowest_ready_replicas": 0,
    "peak_slots": 1,
    "hold_needed": True,
    "gap_s": 45.2,
    "steps": [
        {
            "step": "drain",
            "version_id": 1,
            "replicas": 1,
            "at_s": 0,
            "ready_replicas": 0,
            "slots": 1,
        },
        {
            "step": "start",
            "version_id": 2,
            "replicas": 1,
            "at_s": 61,
            "ready_replicas": 0,
            "slots": 1,
        },
    ],
    "times": {"history": True, "takes_s": 120, "message": "Done in about 120 s."},
    "weights": {
        "size_bytes": 5_000_000,
        "present": True,
        "disk_needed_bytes": 0,
        "disk_free_bytes": 10**12,
    },
}


def test_a_deploy_is_tried_on_paper(server, weighbridge):
    server.on("POST", "/management/v1/endpoints/chat:deployModel", FORECAST)
    name = "orgs/acme/models/llama/versions/2"
    run = weighbridge("deploy", "chat", name, "--dry-run")
    assert run.code == 0, run.err
    assert server.last[3] == {"model": name, "dry_run": True}
    assert "needed: no replica is ready for about 45 s" in run.out
    assert "1 now, never below 0" in run.out
    assert run.out.splitlines()[-1].split() == [
        "1:01",
        "start",
        "1",
        "of",
        "version",
        "2",
        "0",
        "1",
    ]
    assert weighbridge("deploy", "chat", name, "--dry-run", "--json").document == FORECAST


def test_a_canary_is_tried_on_paper_with_its_share(server, weighbridge):
    standing = "1 replica ready on version 2; 25 % of requests go to it until it is promoted"
    share = {"traffic_percent": 25, "replicas": 1, "base_replicas": 3}
    answer = {**FORECAST, "expected_status": "in_progress", "reason": standing, "share": share}
    server.on("POST", "/management/v1/endpoints/chat:deployModel", answer)
    name = "orgs/acme/models/llama/versions/2"
    run = weighbridge("deploy", "chat", name, "--dry-run", "--traffic-percent", "25")
    assert run.code == 0, run.err
    assert server.last[3] == {"model": name, "dry_run": True, "traffic_percent": 25}
    assert "25 % of requests, 1 of 4 replicas" in run.out


def test_a_refused_deploy_on_paper_says_why_and_what_next(server, weighbridge):
    refusal = {"message": "Its sync is queued.", "code": "version_not_done"}
    server.on("POST", "/management/v1/endpoints/chat:deployModel", (409, refusal))
    run = weighbridge("deploy", "chat", "orgs/acme/models/llama/versions/2", "--dry-run")
    assert (run.code, "Its sync is queued." in run.err) == (5, True)
    assert "weighbridge version show" in run.err
