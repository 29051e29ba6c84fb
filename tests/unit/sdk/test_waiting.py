import httpx
import pytest

from weighbridge.sdk import (
    NotFoundError,
    RolloutFailedError,
    SyncFailedError,
    UnavailableError,
    WaitTimeoutError,
    wait_for_deployment,
    wait_for_sync,
)
from weighbridge.sdk.waiting import OUTAGE_MAX_S, POLL_LAST_S

NAME = "orgs/acme/models/m/versions/1"
PATH = f"/management/v1/{NAME}"
UUID = "550e8400-e29b-41d4-a716-446655440000"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds


def version(status, done, **members):
    response = {"customer_s3_uri": "s3://b", "version_aliases": [], "sync_status": status}
    return {"name": NAME, "done": done, "response": {**response, **members}}


def endpoint(*states):
    return {
        "name": "e",
        "model_arch_id": "m",
        "managing_org_name": "acme",
        "created": 1,
        "updated": 1,
        "deployed_models": [
            {"id": UUID, "model": NAME, "created": 1, "state": state, **members}
            for state, members in states
        ],
    }


def sync(server, clock, **options):
    with server.client(retries_max=0) as client:
        return wait_for_sync(client, NAME, now=clock.now, sleep=clock.sleep, **options)


def rollout(server, clock, **options):
    with server.client(retries_max=0) as client:
        return wait_for_deployment(client, "e", UUID, now=clock.now, sleep=clock.sleep, **options)


def test_a_sync_is_followed_to_its_end(server):
    server.on(
        "GET", PATH, version("queued", False), version("in_progress", False), version("done", True)
    )
    seen = []
    found = sync(server, Clock(), on_progress=lambda answer: seen.append(answer.sync_status))
    assert found.succeeded
    assert seen == ["queued", "in_progress", "done"]


def test_pauses_grow_to_their_limit(server):
    server.on("GET", PATH, *[version("queued", False)] * 30, version("done", True))
    clock = Clock()
    sync(server, clock)
    assert clock.pauses[0] == 0.2
    assert clock.pauses == sorted(clock.pauses)
    assert max(clock.pauses) == POLL_LAST_S


def test_a_failed_sync_says_why(server):
    server.on(
        "GET", PATH, version("error", True, error_code="s3_denied", error_message="access denied")
    )
    with pytest.raises(SyncFailedError, match="access denied") as caught:
        sync(server, Clock())
    assert caught.value.code == "s3_denied"


def test_a_wait_ends_at_its_limit(server):
    server.on("GET", PATH, version("in_progress", False))
    clock = Clock()
    with pytest.raises(WaitTimeoutError, match="the sync goes on"):
        sync(server, clock, timeout_s=10)
    assert clock.seconds == pytest.approx(10)


def test_a_wait_survives_a_restart_of_the_server(server):
    away = [(503, {"message": "away"}), httpx.ConnectError("refused")]
    server.on("GET", PATH, version("queued", False), *away * 3, version("done", True))
    assert sync(server, Clock()).succeeded


def test_a_wait_does_not_outlast_a_server_that_is_gone(server):
    server.on("GET", PATH, (503, {"message": "away"}))
    clock = Clock()
    with pytest.raises(UnavailableError):
        sync(server, clock)
    assert OUTAGE_MAX_S <= clock.seconds <= OUTAGE_MAX_S + POLL_LAST_S + 1


def test_a_refusal_ends_a_wait_at_once(server):
    server.on("GET", PATH, (404, {"message": "no such version"}))
    with pytest.raises(NotFoundError):
        sync(server, Clock())
    assert len(server.requests) == 1


@pytest.mark.parametrize("word", ["done", "complete"])
def test_a_rollout_is_followed_to_its_end(server, word):
    states = [("not_started", {}), ("in_progress", {"reason": "1/2 ready"}), (word, {})]
    server.on("GET", "/management/v1/endpoints/e", *(endpoint(state) for state in states))
    assert rollout(server, Clock()).succeeded


def test_a_rollout_that_went_back_is_a_failure_with_its_reason(server):
    server.on(
        "GET",
        "/management/v1/endpoints/e",
        endpoint(("rolling_back", {})),
        endpoint(("rolled_back", {"error_message": "3 new replicas failed"})),
    )
    with pytest.raises(RolloutFailedError, match="rolled_back: 3 new replicas failed"):
        rollout(server, Clock())
