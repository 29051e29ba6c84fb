"""SIGKILL for each process of the local runtime: what ends with it, and what goes on."""

import asyncio
import os
import signal
import sys
import time

import pytest
from local_machine import (
    Machine,
    ask,
    eventually,
    launched,
    spec,
    zombies_of,
)

from weighbridge.runtimes.base import RuntimeState
from weighbridge.runtimes.processes import is_alive

pytestmark = pytest.mark.system


@pytest.fixture
async def machine(tmp_path):
    machine = Machine(tmp_path, 2)
    await machine.start()
    yield machine
    machine.close()


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
    assert zombies_of(machine.agent.pid) == []


async def test_a_killed_agent_takes_its_engines_along_within_their_grace(machine):
    _, tree = await launched(machine, "r1", "--children", "1", "--hidden-child", "--ignore-sigterm")
    machine.kill_agent()
    began_s = time.monotonic()
    await eventually(lambda: machine.processes() == [])
    assert 1.9 <= time.monotonic() - began_s < 10, "the spec's grace is 2 s"
    assert not any(is_alive(process) for process in tree)


async def test_a_new_agent_gives_no_slot_away_before_the_old_engines_are_dead(machine):
    """D4, R19: what an agent that was killed has left is shown as stopping, and holds its slot."""
    # Longer than the new agent needs to start.
    _, tree = await launched(machine, "r1", "--ignore-sigterm", grace_s=8.0)
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
    await eventually(lambda: not is_alive(tree[0]))  # by its parent death signal alone
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
    client = await asyncio.create_subprocess_exec(*argv, *spec("r1").argv)

    async def is_known() -> bool:
        return bool(await machine.runtime.list({}))

    await eventually(is_known)
    client.kill()
    await client.wait()
    status = await machine.until("r1", RuntimeState.RUNNING)
    assert (await ask(status.url))["pid"] == status.pid
