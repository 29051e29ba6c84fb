"""What a person reads while `up` runs."""

from pathlib import Path

import pytest

from weighbridge.server.services import ServiceEvent, ServiceEventKind
from weighbridge.server.telling import Telling

K = ServiceEventKind


@pytest.fixture
def said():
    return []


@pytest.fixture
def telling(said):
    return Telling(["agent", "gateway"], "http://h:1", Path("/data/logs"), said.append)


def test_it_says_once_that_everything_is_ready_and_later_who_is_back(telling, said):
    for kind, name in [(K.STARTED, "agent"), (K.READY, "agent"), (K.READY, "gateway")]:
        telling(ServiceEvent(kind, name, 7, 0.4))
    assert said == ["Weighbridge is ready: http://h:1  (Ctrl-C stops it)"]
    telling(ServiceEvent(K.EXITED, "gateway", 7, exit_code=-9))
    telling(ServiceEvent(K.READY, "gateway", 8))
    assert said[1:] == [
        "The gateway ended, killed by SIGKILL; it is started again.",
        "The gateway is back.",
    ]


def test_a_service_that_refuses_to_start_is_left_to_the_error(telling, said):
    telling(ServiceEvent(K.EXITED, "gateway", 7, exit_code=78))
    telling(ServiceEvent(K.STOPPING, "agent", 6))
    assert said == []


@pytest.mark.parametrize(("code", "words"), [(1, " with exit code 1"), (None, "")])
def test_an_end_says_how_as_far_as_it_is_known(telling, said, code, words):
    telling(ServiceEvent(K.EXITED, "agent", 7, exit_code=code))
    assert said == [f"The node agent ended{words}; it is started again."]


def test_a_slow_start_names_the_log_and_a_takeover_the_process(telling, said):
    telling(ServiceEvent(K.LATE, "gateway", 7, 30.2))
    telling(ServiceEvent(K.ADOPTED, "agent", 6))
    assert said == [
        "The gateway is not ready after 30 s; see /data/logs/gateway.log.",
        "Took over the node agent, which was running (process 6).",
    ]


def test_stopping_is_said_once(telling, said):
    for name in ("gateway", "agent"):
        telling(ServiceEvent(K.STOPPING, name, 7))
    assert said == ["Stopping; streams may finish first. Ctrl-C again cuts them."]
