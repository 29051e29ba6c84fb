"""Spool files: what is written is read again, what is spoiled counts as lost, a full disk loses the oldest."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_process import until
from weighbridge.usage.lines import event_line, loss_line, read_lines
from weighbridge.usage.model import TTFT_BOUNDS_S, UsageEvent, bucket_of, summed
from weighbridge.usage.spool import Spool, SpoolFile, SpoolLimits, drop_oldest, is_left, spools_in

SECONDS = st.floats(0, 1e5)
COUNTS = st.integers(0, 10**9)
EVENTS = st.builds(
    UsageEvent,
    ended_unix_s=st.floats(0, 3e9),
    org_id=st.text(max_size=20),
    key_id=st.text(max_size=20),
    endpoint_id=st.text(max_size=20),
    version=st.integers(0, 1000),
    status=st.sampled_from([200, 400, 429, 499, 503]),
    prompt_tokens=COUNTS,
    cached_tokens=COUNTS,
    completion_tokens=COUNTS,
    estimated=st.booleans(),
    duration_s=SECONDS,
    queue_s=SECONDS,
    ttft_s=st.none() | SECONDS,
)


def event(number: int = 1) -> UsageEvent:
    return UsageEvent(
        1.7e9,
        "org_a",
        "k1",
        "chat",
        2,
        200,
        number,
        0,
        5,
        False,
        1.0,
        0.0,
        0.2,
    )


@given(st.lists(EVENTS, max_size=20), st.integers(0, 40))
def test_what_is_written_is_read_again_and_a_torn_end_is_left_alone(events, torn):
    content = b"".join(event_line(one) for one in events)
    whole = read_lines(content)
    assert (list(whole.events), whole.lost, whole.size_bytes) == (events, 0, len(content))
    cut = read_lines(content[: max(0, len(content) - torn)])
    assert list(cut.events) == events[: len(cut.events)]
    assert cut.lost == 0
    rest = read_lines(content[cut.size_bytes :])
    assert [*cut.events, *rest.events] == events


@given(st.binary(max_size=500))
def test_no_content_makes_the_reader_fail(content):
    batch = read_lines(content)
    assert batch.size_bytes <= len(content)
    assert len(batch.events) + batch.lost <= content.count(b"\n")


@given(st.lists(EVENTS, min_size=2, max_size=6), st.data())
def test_a_spoiled_line_is_one_lost_event_and_spoils_no_other(events, data):
    lines = [event_line(one) for one in events]
    number = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[number]) - 2))
    spoiled = bytearray(lines[number])
    spoiled[place] ^= 1
    lines[number] = bytes(spoiled)
    batch = read_lines(b"".join(lines))
    assert list(batch.events) == events[:number] + events[number + 1 :]
    assert batch.lost == 1


def test_a_loss_is_a_line_of_its_own() -> None:
    batch = read_lines(event_line(event()) + loss_line(7))
    assert (len(batch.events), batch.lost) == (1, 7)


@given(st.lists(EVENTS, max_size=30))
def test_sums_lose_nothing(events):
    sums = summed(events)
    assert sum(row.requests for row in sums.values()) == len(events)
    assert sum(row.prompt_tokens for row in sums.values()) == sum(e.prompt_tokens for e in events)
    timed = [one for one in events if one.ttft_s is not None]
    assert sum(sum(row.ttft_buckets) for row in sums.values()) == len(timed)
    for key in sums:
        assert (key.hour.minute, key.hour.second, key.hour.microsecond) == (0, 0, 0)


def test_a_time_falls_into_the_bucket_it_does_not_exceed() -> None:
    assert [bucket_of(bound) for bound in TTFT_BOUNDS_S] == list(range(len(TTFT_BOUNDS_S)))
    assert bucket_of(1e9) == len(TTFT_BOUNDS_S)


def read_all(directory: Path) -> tuple[list[UsageEvent], int]:
    batches = [read_lines(path.read_bytes()) for path in spools_in(directory)]
    return [one for batch in batches for one in batch.events], sum(b.lost for b in batches)


async def test_events_are_on_disk_within_a_batch_s_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w", SpoolLimits(batch_s=0.05))
    writing = asyncio.create_task(spool.run())
    spool.add(event(1))
    await until(lambda: bool(read_all(tmp_path)[0]))
    spool.add(event(2))
    writing.cancel()
    await spool.close()
    assert read_all(tmp_path) == ([event(1), event(2)], 0)


async def test_a_full_batch_does_not_wait(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w", SpoolLimits(batch_s=3600, batch_events=3))
    writing = asyncio.create_task(spool.run())
    await asyncio.sleep(0)
    for number in range(3):
        spool.add(event(number))
    await until(lambda: len(read_all(tmp_path)[0]) == 3)
    writing.cancel()
    await spool.close()


async def test_files_change_with_size_and_stay_locked_while_they_are_written(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path, "w", SpoolLimits(file_bytes_max=1))
    for number in range(3):
        spool.add(event(number))
        assert await spool.flush()
    found = spools_in(tmp_path)
    assert [path.stem for path in found] == ["w-1", "w-2", "w-3"]
    assert [is_left(path) for path in found] == [True, True, False]
    await spool.close()
    assert is_left(found[2])
    assert read_all(tmp_path) == ([event(0), event(1), event(2)], 0)


async def test_without_room_the_oldest_go_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, "w", SpoolLimits(pending_max=5))
    spool.add(event(0))
    assert await spool.flush()
    write = os.write
    room = len(event_line(event(1))) + 7

    def full(descriptor: int, content: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(28, "No space left on device")
        written = write(descriptor, content[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", full)
    for number in range(1, 4):
        spool.add(event(number))
    assert not await spool.flush()
    assert read_all(tmp_path) == ([event(0), event(1)], 0)
    assert (tmp_path / "w-1.usage").read_bytes().endswith(b"\n")
    for number in range(4, 9):
        spool.add(event(number))
    assert not await spool.flush()
    monkeypatch.setattr(os, "write", write)
    assert await spool.flush()
    events, lost = read_all(tmp_path)
    assert (events, lost) == ([event(n) for n in (0, 1, 4, 5, 6, 7, 8)], 2)
    await spool.close()


async def test_a_directory_that_cannot_be_made_costs_events_not_the_gateway(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    spool = Spool(blocked / "usage", "w", SpoolLimits(pending_max=2))
    for number in range(4):
        spool.add(event(number))
    assert not await spool.flush()
    blocked.unlink()
    assert await spool.flush()
    assert read_all(blocked / "usage") == ([event(2), event(3)], 2)
    await spool.close()


def test_too_many_spools_lose_the_oldest_that_nobody_writes(tmp_path: Path) -> None:
    line = event_line(event())
    held = SpoolFile(tmp_path, "held")
    held.append([line])
    for number in range(3):
        left = SpoolFile(tmp_path, f"left-{number}")
        left.append([line, line])
        left.close()
        os.utime(left.path, (time.time() + number, time.time() + number))
    os.utime(held.path, (1, 1))
    assert drop_oldest(tmp_path, len(line) * 5) == 2
    assert [path.stem for path in spools_in(tmp_path)] == ["held", "left-1", "left-2"]
    held.close()
