"""The control process and its Ray driver, which is here a program of a few lines."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from weighbridge.errors import UnavailableError
from weighbridge.runtimes import wire
from weighbridge.runtimes.ray.child import DriverChild
from weighbridge.runtimes.ray.options import RayOptions
from weighbridge.runtimes.ray.runtime import RayRuntime
from weighbridge.runtimes.ray.wire import CALLS_MAX

LIMIT_S = 30.0
TELLS_THE_EPOCH = """
import json, sys
print("{}", flush=True)
for line in sys.stdin:
    call = json.loads(line)
    name = "epoch %s" % call["request"]["epoch"]
    row = {"name": name, "state": "running", "labels": {}, "incarnation": "i", "node": "n"}
    print(json.dumps({"number": call["number"], "reply": {"replicas": [row]}}), flush=True)
"""


def driver(directory: Path, command: str) -> RayOptions:
    program = directory / "python"
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(0o755)
    return RayOptions("head:6379", "test", str(program), token=None)


@pytest.mark.parametrize("first", ["hello", "[]", '{"ray_version": 7}'])
async def test_a_first_line_that_is_no_greeting_is_told_with_what_to_check(tmp_path, first):
    options = driver(tmp_path, f"echo '{first}'; while read -r line; do :; done")
    with pytest.raises(UnavailableError, match="WEIGHBRIDGE_RAY_PYTHON") as raised:
        await DriverChild.start(options)
    assert raised.value.code == "ray_driver_unreadable"
    assert raised.value.message.startswith(f"What {options.python} wrote first")


async def test_a_driver_that_never_greets_is_started_again_after_ever_longer_waits(tmp_path):
    starts = tmp_path / "starts"
    runtime = RayRuntime(driver(tmp_path, f"echo x >> {starts}; echo hello"), time.monotonic)
    began_s = time.monotonic()
    try:
        with pytest.raises(UnavailableError) as raised:
            await runtime.list({})
        assert raised.value.code == "ray_driver_unreadable"
        # After 0.5, 1, 2, 4, 8 and then every 10 s.
        assert len(starts.read_text().split()) <= 4 + (time.monotonic() - began_s) / 4
    finally:
        await runtime.close()


async def test_a_call_beyond_those_that_may_be_under_way_finds_the_driver_unavailable(tmp_path):
    child = await DriverChild.start(driver(tmp_path, "echo '{}'; while read -r line; do :; done"))
    calls = [asyncio.create_task(child.call(wire.Capacity(), LIMIT_S)) for _ in range(CALLS_MAX)]
    try:
        await asyncio.sleep(0)  # each has begun and waits for its answer
        assert len(child._waiting) == CALLS_MAX
        with pytest.raises(UnavailableError, match=f"{CALLS_MAX} calls"):
            await child.call(wire.Capacity(), LIMIT_S)
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await child.close()


async def test_a_list_says_whether_its_caller_leads(tmp_path):
    (tmp_path / "driver.py").write_text(TELLS_THE_EPOCH)
    options = driver(tmp_path, f"exec {sys.executable} -S {tmp_path / 'driver.py'}")
    epoch: list[int | None] = [None]
    runtime = RayRuntime(options, time.monotonic, lambda: epoch[0])
    try:
        assert [one.name for one in await listed(runtime)] == ["epoch 0"]
        epoch[0] = 7
        assert [one.name for one in await listed(runtime)] == ["epoch 7"]
    finally:
        await runtime.close()


async def listed(runtime: RayRuntime):
    """The runtime is away until its driver has started."""
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        try:
            return await runtime.list({})
        except UnavailableError:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.05)
