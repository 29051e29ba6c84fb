"""What ended requests leave behind: each is counted, told of in the usage and logged once, together with others."""

import asyncio
import json
import os

import pytest

from weighbridge.clock import Clock
from weighbridge.gateway.metrics.access import AccessLog, AccessRecord
from weighbridge.gateway.metrics.ended import HELD_MAX, EndedRequests
from weighbridge.gateway.metrics.figures import Figures
from weighbridge.usage.lines import read_lines
from weighbridge.usage.spool import Spool


class Place:
    """Where they leave it; `level` is the log's."""

    def __init__(self, directory, level="info"):
        self.directory = directory
        self.figures = Figures()
        self.spool = Spool(directory / "usage", "w")
        self.log = os.open(directory / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        access = AccessLog(self.log, "gateway-0", level, Clock().now)
        self.ended = EndedRequests(self.figures, self.spool, access)

    def counted(self):
        return sum(row.requests for row in self.figures.rows.values())

    def lines(self):
        return [json.loads(line) for line in (self.directory / "log").read_text().splitlines()]

    async def events(self):
        await self.spool.flush()
        files = sorted((self.directory / "usage").glob("*.usage"))
        return [event for file in files for event in read_lines(file.read_bytes()).events]


@pytest.fixture
async def place(tmp_path):
    made = Place(tmp_path)
    yield made
    await made.spool.close()
    os.close(made.log)


def record(number=0, endpoint_id="chat", key_id="key"):
    made = AccessRecord(
        f"id-{number}", "/v1/chat/completions", 10.0, 1_700_000_000.0, 10.25, "org", key_id
    )
    made.endpoint_id, made.status = endpoint_id, 200
    made.first_byte_s, made.completion_tokens = 10.1, 7
    return made


async def test_it_is_written_a_moment_later_and_once(place):
    place.ended.add(record())
    assert (place.counted(), place.lines()) == (0, [])
    async with asyncio.timeout(5):
        while not place.counted():  # noqa: ASYNC110 - the wait under test has no event
            await asyncio.sleep(0.005)
    place.ended.flush()
    assert place.counted() == 1
    (line,) = place.lines()
    assert (line["event"], line["request_id"], line["status"]) == ("request", "id-0", 200)
    assert (line["ttft_ms"], line["duration_ms"], line["version"]) == (100.0, 250.0, None)
    (event,) = await place.events()
    assert (event.ended_unix_s, event.ttft_s, event.completion_tokens) == (1_700_000_000.25, 0.1, 7)


async def test_many_do_not_wait(place):
    for number in range(HELD_MAX):
        place.ended.add(record(number))
    assert place.counted() == HELD_MAX
    assert [line["request_id"] for line in place.lines()] == [f"id-{n}" for n in range(HELD_MAX)]


async def test_what_has_no_key_or_no_endpoint_used_nothing(place):
    place.ended.add(record(key_id=""))
    place.ended.add(record(endpoint_id=""))
    place.ended.flush()
    assert (place.counted(), len(place.lines())) == (2, 2)
    assert await place.events() == []


async def test_without_a_log_they_are_counted_all_the_same(tmp_path):
    quiet = Place(tmp_path, level="warning")
    quiet.ended.add(record())
    quiet.ended.flush()
    assert (quiet.counted(), quiet.lines()) == (1, [])
    assert len(await quiet.events()) == 1
    await quiet.spool.close()
    os.close(quiet.log)
