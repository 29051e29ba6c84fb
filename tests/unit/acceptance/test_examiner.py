"""Exams take turns, are tried again when they break off by no fault of the replica's, and always end with a verdict."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from weighbridge.acceptance.asking import Target
from weighbridge.acceptance.examiner import EXAMS_PARALLEL_MAX, Exam, Examiner
from weighbridge.acceptance.model import EXAM_TRIES_MAX, Checks, Probe, Verdict

PROBE = Probe("who", prompt="Who are you?", checks=Checks(not_empty=True))
WAIT_S = 20.0


@pytest.fixture
async def silent() -> AsyncIterator[Target]:
    """An engine that takes a question and never answers."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield Target(f"http://127.0.0.1:{port}", "m", "t")
    server.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def until_verdict(examiner: Examiner, exam: Exam, target: Target) -> tuple[Verdict, int]:
    """As the reconciler does: begin whenever it may; the verdict, and how often it was begun."""
    begun = 0
    async with asyncio.timeout(WAIT_S):
        while (found := examiner.verdict("r", "i1")) is None:
            if examiner.free("r", "i1"):
                examiner.begin("r", "i1", target, exam)
                begun += 1
            await asyncio.sleep(0.005)
    return found, begun


async def test_an_exam_that_breaks_off_is_tried_again_and_then_ends_with_its_cause(
    silent: Target,
) -> None:
    closed = aiohttp.ClientSession()
    await closed.close()
    woken: list[str] = []
    examiner = Examiner(closed, woken.append, pause_s=0.01)
    found, begun = await until_verdict(examiner, Exam([PROBE]), silent)
    assert begun == EXAM_TRIES_MAX
    assert (found.passed, found.probes) == (False, 1)
    assert f"{EXAM_TRIES_MAX} tries broke off" in found.detail
    assert "RuntimeError: Session is closed" in found.detail
    assert woken[-1] == "replicas"
    assert not examiner.free("r", "i1")
    # Another process of the replica has all its tries again.
    assert examiner.verdict("r", "i2") is None
    assert examiner.free("r", "i2")
    await examiner.close()


async def test_whoever_asked_first_has_the_next_turn(
    session: aiohttp.ClientSession, silent: Target
) -> None:
    woken = asyncio.Event()
    examiner = Examiner(session, lambda _: woken.set())
    names = [f"r{n}" for n in range(EXAMS_PARALLEL_MAX)]
    for name in names:
        assert examiner.free(name, "i1")
        examiner.begin(name, "i1", silent, Exam([PROBE]))
    assert not examiner.free("first", "i1")
    assert not examiner.free("a-second", "i1")
    examiner.keep([*names[1:], "first", "a-second"])
    await asyncio.wait_for(woken.wait(), WAIT_S)
    assert not examiner.free("a-second", "i1")
    assert examiner.free("first", "i1")
    # Who is gone from the world holds nobody up.
    examiner.keep([*names[1:], "a-second"])
    assert examiner.free("a-second", "i1")
    await examiner.close()
