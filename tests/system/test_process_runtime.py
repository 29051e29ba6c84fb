"""The local runtime with a real node agent, real shims and real engine processes, some of them killed."""

import asyncio
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from weighbridge.errors import InvalidError, UnavailableError
from weighbridge.runtimes.base import ReplicaSpec, Resources, RuntimeState, Weights
from weighbridge.runtimes.process import ProcessRuntime
from weighbridge.runtimes.processes import find_marked, identify, is_alive, send_signal

pytestmark = pytest.mark.system

ENGINE = str(Path(__file__).with_name("programs") / "engine.py")
SECRET = "s3cret-of-the-replica"
LIMIT_S = 30.0


class Machine:
    """A data directory with a node agent on it."""

    def __init__(self, root: Path, slots: int, *extra: str) -> None:
        self.root = root
        self.run_dir = root / "run"
        self.logs_dir = root / "logs" / "replicas"
        self.command = [sys.executable, "-m", "weighbridge.runtimes.agent"]
        self.command += ["--data-dir", str(root), "--node", "n1", "--slots", str(slots), *extra]
        self.runtime = ProcessRuntime(self.run_dir / "agent.sock")
        self.agent: subprocess.Popen | None = None

    async def start(self) -> None:
        environment = os.environ | {"DATABASE_PASSWORD": "of-the-server"}
        self.agent = subprocess.Popen(self.command, env=environment, stdout=subprocess.DEVNULL)
        await eventually(self.answers)

    async def answers(self) -> bool:
        try:
            return bool(await self.runtime.capacity())
        except UnavailableError:
            return False

    def kill_agent(self) -> None:
        self.agent.kill()
        self.agent.wait()

    async def status(self, name: str):
        return next(r for r in await self.runtime.list({}) if r.name == name)

    async def state(self, name: str) -> RuntimeState:
        return (await self.status(name)).state

    async def until(self, name: str, state: RuntimeState):
        async def reached():
            return await self.state(name) is state

        await eventually(reached)
        return await self.status(name)

    def processes(self, role: str | None = None):
        return [p.identity for p in find_marked(self.run_dir) if role in (None, p.mark.role)]

    def close(self) -> None:
        if self.agent and self.agent.poll() is None:
            self.agent.terminate()
            try:
                self.agent.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                self.kill_agent()
        left = self.processes()
        for process in left:
            send_signal(process, signal.SIGKILL)


async def eventually(condition, limit_s: float = LIMIT_S) -> None:
    deadline_s = time.monotonic() + limit_s
    while True:
        answer = condition()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        assert time.monotonic() < deadline_s, f"not within {limit_s} s"
        await asyncio.sleep(0.02)


@pytest.fixture
async def machine(tmp_path):
    machine = Machine(tmp_path, 2)
    await machine.start()
    yield machine
    machine.close()


def spec(name: str, *arguments: str, **changes) -> ReplicaSpec:
    argv = [sys.executable, "-S", ENGINE, "--host", "{host}", "--port", "{port}"]
    wish = ReplicaSpec(
        name,
        [*argv, "--model", "{model}", *arguments],
        Weights("digest", "/models/{port}", 1),
        secrets={"ENGINE_TOKEN": SECRET},
        labels={"endpoint": "e1"},
        grace_s=2.0,
    )
    return dataclasses.replace(wish, **changes)


async def ask(url: str) -> dict:
    """What the engine answers, once it listens."""
    answers = []

    def get() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                answers.append(json.load(answer))
        except OSError:
            return False
        return True

    await eventually(lambda: asyncio.to_thread(get))
    return answers[0]


async def launched(machine: Machine, name: str, *arguments: str, **changes):
    """The status and the identities of the engine and its children, once it serves."""
    await machine.runtime.launch(spec(name, *arguments, **changes))
    status = await machine.until(name, RuntimeState.RUNNING)
    answer = await ask(status.url)
    return status, [identify(pid) for pid in (answer["pid"], *answer["children"])]


def environment_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text()
    return dict(item.split("=", 1) for item in text.split("\0") if item)


def test_files_of_the_agent_are_for_its_user_alone(tmp_path):
    """The socket and the directory it lies in are closed to other users."""

    async def look() -> None:
        machine = Machine(tmp_path / "data", 1)
        await machine.start()
        try:
            assert (machine.run_dir / "agent.sock").stat().st_mode & 0o777 == 0o600
            assert machine.run_dir.stat().st_mode & 0o777 == 0o700
        finally:
            machine.close()

    asyncio.run(look())


async def test_a_launched_replica_serves_at_its_url(machine):
    status, _ = await launched(machine, "r1", env={"LISTENS_ON": "{host}:{port}"})
    assert (await ask(status.url))["model"] == "/models/{port}", "a filled-in value is not searched"
    environment = environment_of(status.pid)
    assert status.url == f"http://{environment['LISTENS_ON']}"
    assert status.node == "n1"
    assert status.labels == {"endpoint": "e1"}
    assert status.incarnation
    assert [r.name for r in await machine.runtime.list({"endpoint": "e1"})] == ["r1"]
    assert await machine.runtime.list({"endpoint": "e2"}) == []


async def test_secrets_reach_the_engine_and_nothing_else(machine):
    status, _ = await launched(machine, "r1")
    environment = environment_of(status.pid)
    assert environment["ENGINE_TOKEN"] == SECRET
    assert "DATABASE_PASSWORD" not in environment, "the server's own secrets stay with it"
    for process in machine.processes("shim"):
        assert "ENGINE_TOKEN" not in environment_of(process.pid)
    commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if _is_ours(p)]
    assert commands
    assert not any(SECRET.encode() in command for command in commands)
    assert SECRET not in repr(await machine.runtime.list({}))
    await machine.runtime.stop("r1", 5)
    await machine.until("r1", RuntimeState.EXITED)
    files = [p for p in machine.root.rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in p.read_bytes() for p in files)


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid() and bool(path.read_bytes())
    except OSError:
        return False


async def test_launching_a_known_name_again_changes_nothing(machine):
    await asyncio.gather(*(machine.runtime.launch(spec("r1")) for _ in range(5)))
    first = await machine.until("r1", RuntimeState.RUNNING)
    await machine.runtime.launch(spec("r1", "--children", "1"))
    assert await machine.status("r1") == first
    assert len(machine.processes("engine")) == 1


async def test_twenty_launches_at_once_run_on_ports_of_their_own(tmp_path):
    machine = Machine(tmp_path, 20)
    await machine.start()
    try:
        names = [f"r{i}" for i in range(20)]
        await asyncio.gather(*(machine.runtime.launch(spec(name)) for name in names))
        statuses = [await machine.until(name, RuntimeState.RUNNING) for name in names]
        assert len({status.url for status in statuses}) == 20
        pids = [(await ask(status.url))["pid"] for status in statuses]
        assert pids == [status.pid for status in statuses]
    finally:
        machine.close()
    assert machine.processes() == [], "an agent that ends takes its engines with it"


async def test_a_replica_beyond_the_slots_waits_and_starts_when_one_is_free(machine):
    for name in ("r1", "r2", "r3", "r4"):
        await machine.runtime.launch(spec(name))
    await machine.until("r2", RuntimeState.RUNNING)
    waiting = await machine.status("r3")
    assert waiting.state is RuntimeState.PENDING
    assert waiting.reason == "waits for one of 2 slots"
    [node] = await machine.runtime.capacity()
    assert (node.total.custom["slots"], node.free.custom["slots"]) == (2, 0)
    await machine.runtime.stop("r1", 5)
    await machine.until("r3", RuntimeState.RUNNING)
    await machine.runtime.stop("r4", 5)
    assert (await machine.status("r4")).reason == "stopped before it started"


async def test_a_replica_that_can_never_fit_holds_nobody_up(machine):
    await machine.runtime.launch(spec("big", resources=Resources(gpus=2)))
    await launched(machine, "r1")
    assert (await machine.status("big")).reason == "needs 2 GPUs; this node offers 0"


async def test_accelerators_are_given_to_one_replica_each(tmp_path):
    machine = Machine(tmp_path, 4, "--gpus", "4,5")
    await machine.start()
    try:
        for name in ("r1", "r2", "r3"):
            await machine.runtime.launch(spec(name, resources=Resources(gpus=1)))
        pids = [(await machine.until(name, RuntimeState.RUNNING)).pid for name in ("r1", "r2")]
        assert [environment_of(pid)["CUDA_VISIBLE_DEVICES"] for pid in pids] == ["4", "5"]
        assert (await machine.status("r3")).reason == "waits for 1 GPUs; 0 are free"
    finally:
        machine.close()


async def test_a_stopped_replica_is_dead_before_it_is_said_to_be(machine):
    """R19: no process of the tree lives and the port is closed when EXITED is first seen."""
    status, tree = await launched(machine, "r1", "--children", "2", "--hidden-child")
    await machine.runtime.stop("r1", 5)
    ended = await machine.until("r1", RuntimeState.EXITED)
    assert not any(is_alive(process) for process in tree)
    assert (ended.exit_code, ended.reason) == (-signal.SIGTERM, "stopped; ended by SIGTERM")
    assert (ended.url, ended.pid) == (None, None)
    with pytest.raises(ConnectionRefusedError), socket.socket() as probe:
        probe.connect(("127.0.0.1", int(status.url.rpartition(":")[2])))


async def test_what_ignores_sigterm_is_killed_after_the_grace(machine):
    _, tree = await launched(machine, "r1", "--ignore-sigterm", "--children", "1", "--hidden-child")
    began_s = time.monotonic()
    await machine.runtime.stop("r1", 1.0)
    ended = await machine.until("r1", RuntimeState.EXITED)
    assert time.monotonic() - began_s >= 0.9
    assert ended.exit_code == -signal.SIGKILL
    assert not any(is_alive(process) for process in tree)


async def test_a_second_stop_may_shorten_the_grace(machine):
    _, tree = await launched(machine, "r1", "--ignore-sigterm")
    await machine.runtime.stop("r1", 300)
    assert await machine.state("r1") is RuntimeState.STOPPING
    await machine.runtime.stop("r1", 0)
    await machine.until("r1", RuntimeState.EXITED)
    assert not any(is_alive(process) for process in tree)


async def test_stopping_and_forgetting_the_unknown_is_fine(machine):
    await machine.runtime.stop("nobody", 1)
    await machine.runtime.forget("nobody")
    assert await machine.runtime.logs("nobody", 100) == ""


async def test_an_ended_replica_is_listed_until_it_is_forgotten(machine):
    await launched(machine, "r1")
    await machine.runtime.forget("r1")
    assert await machine.state("r1") is RuntimeState.RUNNING, "a running one is left alone"
    await machine.runtime.stop("r1", 5)
    await machine.until("r1", RuntimeState.EXITED)
    await machine.runtime.forget("r1")
    assert await machine.runtime.list({}) == []


async def test_an_engine_that_fails_is_reported_with_its_code_and_output(machine):
    await machine.runtime.launch(spec("r1", "--exit-code", "3"))
    ended = await machine.until("r1", RuntimeState.EXITED)
    assert (ended.exit_code, ended.reason) == (3, "exited with code 3")
    assert "engine says: last line" in await machine.runtime.logs("r1", 1000)


async def test_a_program_that_is_not_there_is_reported(machine):
    await machine.runtime.launch(spec("r1", argv=["/nowhere/engine"]))
    ended = await machine.until("r1", RuntimeState.EXITED)
    assert ended.reason == "could not start: No such file or directory: /nowhere/engine"
    await eventually(lambda: machine.processes() == [])


async def test_a_log_stays_within_its_limit_and_keeps_the_end(machine):
    await launched(machine, "r1", "--print-bytes", "3000000", log_bytes_max=100_000)
    files = list(machine.logs_dir.iterdir())
    assert len(files) == 2
    assert sum(path.stat().st_size for path in files) <= 100_000
    assert (await machine.runtime.logs("r1", 50_000)).endswith("engine says: last line\n")
    assert len(await machine.runtime.logs("r1", 5_000)) == 5_000


async def test_a_killed_engine_takes_its_children_along(machine):
    _, tree = await launched(machine, "r1", "--children", "2", "--hidden-child")
    os.kill(tree[0].pid, signal.SIGKILL)
    ended = await machine.until("r1", RuntimeState.EXITED)
    assert (ended.exit_code, ended.reason) == (-signal.SIGKILL, "ended by SIGKILL")
    assert not any(is_alive(process) for process in tree)


async def test_a_killed_grandchild_is_the_engines_own_affair(machine):
    status, tree = await launched(machine, "r1", "--children", "1")
    os.kill(tree[1].pid, signal.SIGKILL)
    await eventually(lambda: not is_alive(tree[1]))
    assert (await ask(status.url))["pid"] == tree[0].pid
    assert await machine.state("r1") is RuntimeState.RUNNING


async def test_a_killed_shim_takes_the_whole_tree_along(machine):
    """Also the child that has a session of its own and no environment to know it by."""
    _, tree = await launched(machine, "r1", "--children", "1", "--hidden-child", "--ignore-sigterm")
    [shim] = machine.processes("shim")
    os.kill(shim.pid, signal.SIGKILL)
    ended = await machine.until("r1", RuntimeState.EXITED)
    assert ended.reason == "its shim was killed, and the engine with it"
    assert not any(is_alive(process) for process in tree)
    zombies = [p for p in Path("/proc").glob("[0-9]*/stat") if _is_zombie_of(p, machine.agent.pid)]
    assert zombies == []


def _is_zombie_of(stat: Path, parent: int) -> bool:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] == "Z" and int(fields[1]) == parent


async def test_a_killed_agent_takes_its_engines_along_within_their_grace(machine):
    _, tree = await launched(machine, "r1", "--children", "1", "--hidden-child", "--ignore-sigterm")
    machine.kill_agent()
    began_s = time.monotonic()
    await eventually(lambda: machine.processes() == [])
    assert 1.9 <= time.monotonic() - began_s < 10, "the spec's grace is 2 s"
    assert not any(is_alive(process) for process in tree)


async def test_a_new_agent_gives_no_slot_away_before_the_old_engines_are_dead(machine):
    """D4, R19: what an agent that was killed has left is shown as stopping, and holds its slot."""
    _, tree = await launched(machine, "r1", "--ignore-sigterm")
    machine.kill_agent()
    await machine.start()
    await machine.runtime.launch(spec("r2"))
    await machine.runtime.launch(spec("r3"))
    old = await machine.status("r1")
    assert (old.state, old.labels) == (RuntimeState.STOPPING, {"endpoint": "e1"})
    assert await machine.state("r3") is RuntimeState.PENDING
    await machine.until("r3", RuntimeState.RUNNING)
    assert not any(is_alive(process) for process in tree)
    assert await machine.state("r1") is RuntimeState.EXITED


async def test_a_new_agent_kills_what_outlived_agent_and_shim(machine):
    _, tree = await launched(machine, "r1", "--children", "1")
    machine.agent.send_signal(signal.SIGSTOP)  # so that it cannot clean up
    [shim] = machine.processes("shim")
    os.kill(shim.pid, signal.SIGKILL)
    machine.kill_agent()
    assert is_alive(tree[1])
    await machine.start()
    await machine.until("r1", RuntimeState.EXITED)
    assert not any(is_alive(process) for process in tree)


async def test_replicas_outlive_the_client_that_asked_for_them(machine):
    """D3: the control plane may be killed at any time."""
    program = (
        "import asyncio, sys, time; from pathlib import Path\n"
        "from weighbridge.runtimes.base import ReplicaSpec, Weights\n"
        "from weighbridge.runtimes.process import ProcessRuntime\n"
        "wish = ReplicaSpec('r1', sys.argv[2:], Weights('d', '/m', 1))\n"
        "asyncio.run(ProcessRuntime(Path(sys.argv[1])).launch(wish)); time.sleep(600)\n"
    )
    argv = [sys.executable, "-c", program, str(machine.run_dir / "agent.sock")]
    client = subprocess.Popen([*argv, *spec("r1").argv])

    async def is_known() -> bool:
        return bool(await machine.runtime.list({}))

    await eventually(is_known)
    client.kill()
    client.wait()
    status = await machine.until("r1", RuntimeState.RUNNING)
    assert (await ask(status.url))["pid"] == status.pid


async def test_a_runtime_without_its_agent_says_so_and_finds_the_next_one(machine):
    machine.kill_agent()
    with pytest.raises(UnavailableError, match="the node agent is away"):
        await machine.runtime.list({})
    await machine.start()
    assert await machine.runtime.list({}) == []


async def test_an_agent_that_hangs_is_unavailable_within_the_limit(machine):
    impatient = ProcessRuntime(machine.run_dir / "agent.sock", call_timeout_s=0.2)
    machine.agent.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UnavailableError, match="did not answer list within 0.2 s"):
            await impatient.list({})
    finally:
        machine.agent.send_signal(signal.SIGCONT)


async def test_a_second_agent_on_the_same_directory_refuses_to_start(machine):
    second = subprocess.run(machine.command, capture_output=True, text=True, timeout=LIMIT_S)
    assert second.returncode == os.EX_CONFIG
    assert f"process {machine.agent.pid} holds" in second.stderr


async def test_malformed_calls_are_refused_and_harm_nobody(machine):
    for line in (b"{}\n", b"not json\n", b'{"call":"launch","spec":{"name":1}}\n'):
        reader, writer = await asyncio.open_unix_connection(machine.run_dir / "agent.sock")
        writer.write(line)
        assert json.loads(await reader.readline())["error_code"] == "invalid_request"
        writer.close()
    reader, writer = await asyncio.open_unix_connection(machine.run_dir / "agent.sock")
    writer.write(b"x" * 1_200_000)
    assert "at most" in json.loads(await reader.readline())["error_message"]
    writer.close()
    with pytest.raises(InvalidError, match="not of the form"):
        await machine.runtime.launch(spec("../r1"))
    assert await machine.runtime.list({}) == []


async def test_a_data_directory_deeper_than_a_socket_address_works(tmp_path):
    machine = Machine(tmp_path / ("d" * 120), 1)
    await machine.start()
    try:
        await launched(machine, "r1")
    finally:
        machine.close()
