"""The local runtime with a real node agent, real shims and real engine processes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time

import pytest
from local_machine import (
    LIMIT_S,
    SECRET,
    Machine,
    ask,
    commands_of_this_user,
    environment_of,
    eventually,
    launched,
    spec,
)

from weighbridge.errors import InvalidError, UnavailableError
from weighbridge.runtimes.base import Resources, RuntimeState
from weighbridge.runtimes.process import ProcessRuntime
from weighbridge.runtimes.processes import is_alive

pytestmark = pytest.mark.system


@pytest.fixture
async def machine(tmp_path):
    machine = Machine(tmp_path, 2)
    await machine.start()
    yield machine
    machine.close()


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


async def test_an_engine_listens_where_the_node_is_told_and_nowhere_else(tmp_path):
    machine = Machine(tmp_path, 1, "--host", "127.0.0.2")
    await machine.start()
    try:
        status, _ = await launched(machine, "r1")
        host, _, port = status.url.removeprefix("http://").partition(":")
        assert host == "127.0.0.2"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0
    finally:
        machine.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "203.0.113.7", "no.such.host.invalid"])
def test_an_address_that_is_not_this_machine_s_is_refused(tmp_path, host):
    command = [*Machine(tmp_path, 1).command, "--host", host]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S)
    assert refused.returncode == os.EX_CONFIG
    assert "WEIGHBRIDGE_REPLICA_HOST" in refused.stderr


async def test_secrets_reach_the_engine_and_nothing_else(machine):
    status, _ = await launched(machine, "r1")
    environment = environment_of(status.pid)
    assert environment["ENGINE_TOKEN"] == SECRET
    assert "DATABASE_PASSWORD" not in environment, "the server's own secrets stay with it"
    for process in machine.processes("shim"):
        assert "ENGINE_TOKEN" not in environment_of(process.pid)
    commands = commands_of_this_user()
    assert any(b"shim.py" in command for command in commands)
    assert not any(SECRET.encode() in command for command in commands)
    assert SECRET not in repr(await machine.runtime.list({}))
    await machine.runtime.stop("r1", 5)
    await machine.until("r1", RuntimeState.EXITED)
    files = [p for p in machine.root.rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in p.read_bytes() for p in files)


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


async def test_a_runtime_without_its_agent_says_so_and_finds_the_next_one(machine):
    machine.kill_agent()
    with pytest.raises(UnavailableError, match="the node agent is away"):
        await machine.runtime.list({})
    await machine.start()
    assert await machine.runtime.list({}) == []


async def test_a_controller_that_another_has_followed_is_refused_whatever_it_believes(machine):
    socket_path = machine.run_dir / "agent.sock"
    old, new = (ProcessRuntime(socket_path, epoch_of=lambda e=epoch: e) for epoch in (7, 8))
    await old.launch(spec("r1"))
    await new.list({})
    for call in (old.launch(spec("r2")), old.stop("r1", 1), old.forget("r1"), old.list({})):
        with pytest.raises(
            UnavailableError, match="a controller of epoch 8 leads; this one's is 7"
        ):
            await call
    assert [status.name for status in await new.list({})] == ["r1"]
    # Who leads nobody, as an api that shows what runs, may look.
    assert [status.name for status in await machine.runtime.list({})] == ["r1"]


async def test_an_agent_that_hangs_is_unavailable_within_the_limit(machine):
    impatient = ProcessRuntime(machine.run_dir / "agent.sock", call_timeout_s=0.2)
    machine.agent.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UnavailableError, match="did not answer list within"):
            await impatient.list({})
    finally:
        machine.agent.send_signal(signal.SIGCONT)


async def test_a_second_agent_on_the_same_directory_refuses_to_start(machine):
    second = await asyncio.create_subprocess_exec(*machine.command, stderr=subprocess.PIPE)
    _, message = await asyncio.wait_for(second.communicate(), LIMIT_S)
    assert second.returncode == os.EX_CONFIG
    assert f"process {machine.agent.pid} holds" in message.decode()


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
