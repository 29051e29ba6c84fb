"""The supervisor as a process of its own over real services, some of them killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weighbridge.runtimes.base import ReplicaSpec, Weights
from weighbridge.runtimes.process import ProcessRuntime
from weighbridge.runtimes.processes import (
    find_marked,
    identify,
    is_alive,
    lock_holder,
    send_signal,
)
from weighbridge.server.stopping import down
from weighbridge.server.supervisor import ask_to_leave

pytestmark = pytest.mark.system

PROGRAMS = Path(__file__).parents[1] / "programs"
LIMIT_S = 30.0


class Place:
    """A data directory and the supervisors that ran on it."""

    def __init__(self, root: Path) -> None:
        self.run_dir = root / "run"
        self.log_dir = root / "logs"
        self.root = root
        self.ups: list[Up] = []

    def service(self, name: str, *arguments: str, **changes) -> dict:
        program = str(PROGRAMS / "service.py")
        argv = [sys.executable, program, "--run-dir", str(self.run_dir), "--name", name]
        return {"name": name, "argv": [*argv, *arguments], **changes}

    def agent(self) -> dict:
        argv = [sys.executable, "-m", "weighbridge.runtimes.agent", "--data-dir", str(self.root)]
        return {"name": "agent", "argv": argv, "stop_grace_s": 20.0}

    def up(self, *services: dict) -> "Up":
        self.ups.append(Up(self, services))
        return self.ups[-1]

    def main(self, name: str):
        return lock_holder(self.run_dir / f"{name}.lock")

    def living(self) -> list:
        return [process.identity for process in find_marked(self.run_dir)]

    def close(self) -> None:
        for up in self.ups:
            up.process.kill()
            up.process.communicate()
        for process in self.living():
            send_signal(process, signal.SIGKILL)


class Up:
    """One run of the supervisor."""

    def __init__(self, place: Place, services: tuple[dict, ...]) -> None:
        self.names = [service["name"] for service in services]
        self.log = place.root / f"events-{len(place.ups)}"
        words = [str(place.run_dir), str(place.log_dir), json.dumps(services)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAMS / "supervise.py"), *words],
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
            )

    def events(self, *kinds: str) -> list[tuple[str, str]]:
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [(r["kind"], r["service"]) for r in rows if r["kind"] in kinds]

    def until_ready(self, count: int | None = None) -> "Up":
        wanted = len(self.names) if count is None else count
        eventually(lambda: len(self.events("ready")) >= wanted)
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ended(self) -> tuple[int, str]:
        _, message = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, message.strip()


def kill(process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(process))


def eventually(condition, limit_s: float = LIMIT_S) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {limit_s} s"
        time.sleep(0.02)


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


def test_services_start_in_order_and_stop_in_reverse(place):
    up = place.up(place.service("a"), place.service("b"), place.service("c")).until_ready()
    assert up.events("started") == [("started", "a"), ("started", "b"), ("started", "c")]
    up.process.terminate()
    assert up.ended() == (0, "")
    assert up.events("stopped") == [("stopped", "c"), ("stopped", "b"), ("stopped", "a")]
    assert place.living() == []


def test_a_killed_service_is_started_again_and_the_others_go_on(place):
    up = place.up(place.service("a"), place.service("b")).until_ready()
    first_a, b = place.main("a"), place.main("b")
    kill(first_a)
    up.until_ready(3)
    assert place.main("a") not in (None, first_a)
    assert place.main("b") == b
    assert up.events("exited") == [("exited", "a")]


def test_a_supervisor_that_is_asked_to_leave_ends_alone_and_the_next_one_adopts_its_services(place):
    services = place.service("a"), place.service("b")
    up = place.up(*services).until_ready()
    a, b = place.main("a"), place.main("b")
    ask_to_leave(place.run_dir)
    assert up.ended() == (0, "")
    assert (place.main("a"), place.main("b")) == (a, b)
    up = place.up(*services).until_ready()
    assert up.events("adopted", "started") == [("adopted", "a"), ("adopted", "b")]
    assert (place.main("a"), place.main("b")) == (a, b)


def test_a_service_that_cannot_follow_the_one_that_runs_takes_its_place_once_that_is_stopped(place):
    place.up(place.service("a")).until_ready().kill()
    old = place.main("a")
    up = place.up(
        place.service("a", "--say", "other settings", follow_argv=["--no-such-option"])
    ).until_ready()
    assert up.events("started", "exited", "ready") == [
        ("started", "a"),
        ("exited", "a"),
        ("started", "a"),
        ("ready", "a"),
    ]
    assert not is_alive(old)
    assert place.main("a") not in (None, old)


def test_services_outlive_a_killed_supervisor_and_the_next_one_adopts_them(place):
    services = place.service("a"), place.service("b")
    place.up(*services).until_ready().kill()
    a, b = place.main("a"), place.main("b")
    assert is_alive(a)
    kill(b)
    up = place.up(*services).until_ready()
    assert up.events("adopted", "started") == [("adopted", "a"), ("started", "b")]
    assert place.main("a") == a
    kill(a)
    up.until_ready(3)
    assert place.main("a") != a, "an adopted service is watched like any other"
    up.process.terminate()
    assert up.ended() == (0, "")
    assert place.living() == []


def test_a_service_with_other_settings_is_replaced_instead_of_adopted(place):
    place.up(place.service("a"), place.service("b")).until_ready().kill()
    a, b = place.main("a"), place.main("b")
    changed = place.service("b", env={"WEIGHBRIDGE_PORT": "9"})
    up = place.up(place.service("a"), changed).until_ready()
    assert place.main("a") == a
    assert place.main("b") != b
    assert not is_alive(b)
    assert up.events("adopted") == [("adopted", "a")]


def test_a_second_up_says_who_runs_and_how_to_stop_it(place):
    first = place.up(place.service("a")).until_ready()
    code, message = place.up(place.service("a")).ended()
    assert code == 1
    assert message == (
        f"Weighbridge runs already on {place.root} (process {first.process.pid}); "
        "stop it with `weighbridge down`, or follow it with `weighbridge up --take-over`."
    )
    assert first.process.poll() is None
    assert is_alive(place.main("a"))


def test_down_stops_the_supervisor_and_all_services(place):
    up = place.up(place.service("a"), place.service("b")).until_ready()
    assert sorted(down(place.run_dir)) == ["a", "b", "supervisor"]
    assert up.ended() == (0, "")
    assert place.living() == []
    assert down(place.run_dir) == []


def test_down_works_when_the_supervisor_was_killed(place):
    """Also for a service that ignores SIGTERM, and for a worker that its main has left behind."""
    stubborn = place.service("b", "--ignore-sigterm", stop_grace_s=0.5)
    place.up(place.service("a", "--worker"), stubborn).until_ready().kill()
    kill(place.main("a"))
    assert len(place.living()) == 2
    assert down(place.run_dir) == ["b"]
    assert place.living() == []


def test_down_works_when_the_list_of_services_is_gone(place):
    place.up(place.service("a"), place.service("b")).until_ready().kill()
    (place.run_dir / "services.json").unlink()
    assert sorted(down(place.run_dir)) == ["a", "b"]
    assert place.living() == []


def test_a_worker_that_its_main_left_behind_is_ended(place):
    up = place.up(place.service("a", "--worker")).until_ready()
    main = place.main("a")
    [worker] = [process for process in place.living() if process != main]
    kill(main)
    up.until_ready(2)
    eventually(lambda: not is_alive(worker))
    assert len(place.living()) == 2, "the new main and its own worker"


def test_a_service_that_ignores_sigterm_is_killed_after_its_grace(place):
    up = place.up(place.service("a", "--ignore-sigterm", stop_grace_s=0.5)).until_ready()
    up.process.send_signal(signal.SIGINT)
    assert up.ended() == (0, "")
    assert place.living() == []


def test_a_second_request_to_stop_cuts_the_grace_short(place):
    up = place.up(place.service("a", "--ignore-sigterm", stop_grace_s=300)).until_ready()
    up.process.terminate()
    eventually(lambda: up.events("stopping"))
    up.process.terminate()
    assert up.ended() == (0, "")
    assert place.living() == []


def test_a_setup_error_of_a_service_is_shown_and_ends_everything(place):
    sentence = "the database at db.example is newer than this program; upgrade it"
    bad = place.service("b", "--exit-code", "78", "--say", sentence)
    code, message = place.up(place.service("a"), bad).ended()
    assert (code, message) == (1, sentence)
    assert place.living() == []


def test_a_service_that_ends_again_and_again_is_given_up_with_its_log(place):
    bad = place.service("b", "--exit-code", "1", "--say", "cannot read the moon phase")
    up = place.up(place.service("a"), bad)
    code, message = up.ended()
    assert code == 1
    assert "b ended 5 times in a row (last exit code 1)" in message
    assert message.endswith("cannot read the moon phase")
    assert len(up.events("exited")) == 5
    assert place.living() == []


def test_a_service_that_has_served_is_never_given_up(place):
    """The others, which serve traffic, must not fall with it."""
    sick = place.root / "sick"
    up = place.up(place.service("a"), place.service("b", "--sick-file", str(sick))).until_ready()
    a = place.main("a")
    sick.touch()
    kill(place.main("b"))
    eventually(lambda: len(up.events("exited")) >= 7)
    sick.unlink()
    up.until_ready(3)
    assert place.main("a") == a


def test_a_program_that_is_not_there_is_a_setup_error(place):
    code, message = place.up({"name": "a", "argv": ["/nowhere/service"]}).ended()
    assert code == 1
    assert message.startswith("a cannot be started: [Errno 2]")


def launch_engine(place: Place) -> None:
    """One engine that needs a SIGKILL, through the agent of this place."""
    argv = [sys.executable, "-S", str(PROGRAMS / "engine.py"), "--port", "{port}"]
    argv += ["--ignore-sigterm", "--children", "1", "--hidden-child"]
    wish = ReplicaSpec("r1", argv, Weights("d", "/m", 1), grace_s=1.0)
    asyncio.run(ProcessRuntime(place.run_dir / "agent.sock").launch(wish))
    roles = [p.mark.role for p in find_marked(place.run_dir)]
    eventually(lambda: [p.mark.role for p in find_marked(place.run_dir)].count("engine") == 2)
    assert "service" in roles


def test_a_killed_agent_is_started_again_and_its_engines_end(place):
    up = place.up(place.agent()).until_ready()
    launch_engine(place)
    kill(place.main("agent"))
    up.until_ready(2)
    eventually(lambda: len(place.living()) == 1)


def test_nothing_is_left_when_supervisor_and_agent_were_killed(place):
    up = place.up(place.service("a"), place.agent()).until_ready()
    launch_engine(place)
    everything = place.living()
    up.kill()
    kill(place.main("agent"))
    assert down(place.run_dir) == ["a"]
    assert place.living() == []
    assert not any(is_alive(process) for process in everything)


def test_an_orderly_stop_takes_the_engines_along(place):
    up = place.up(place.agent(), place.service("a")).until_ready()
    launch_engine(place)
    hidden = [identify(int(p.name)) for p in Path("/proc").glob("[0-9]*") if _is_hidden(p, place)]
    up.process.terminate()
    assert up.ended() == (0, "")
    assert place.living() == []
    assert not any(is_alive(process) for process in hidden if process)


def _is_hidden(process: Path, place: Place) -> bool:
    """The engine's child without an environment: its parent is an engine of this place."""
    try:
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return parent in [p.identity.pid for p in find_marked(place.run_dir)]
