"""How long a request waits for its engine, and when its caller gets a comment: the real parts, and a clock to turn."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from client_wire import Transport

from gateway_process import ENDPOINT, KEY, GatewayProcess
from weighbridge.clock import Clock
from weighbridge.errors import UnavailableError
from weighbridge.gateway.limits.holds import HoldLimits, Holds
from weighbridge.gateway.limits.ledger import Ledger, open_ledger
from weighbridge.gateway.limits.meter import Meter
from weighbridge.gateway.limits.quotas import Quotas
from weighbridge.gateway.limits.turns import QueueLimits, Turns
from weighbridge.gateway.metrics.access import AccessLog
from weighbridge.gateway.metrics.ended import EndedRequests
from weighbridge.gateway.metrics.figures import Figures
from weighbridge.gateway.proxy.answering import Desk
from weighbridge.gateway.proxy.choosing import Choice
from weighbridge.gateway.proxy.control import ControlPlanes
from weighbridge.gateway.proxy.replicas import Replicas
from weighbridge.gateway.proxy.site import PublicSite
from weighbridge.gateway.snapshots import Snapshots
from weighbridge.gateway.table import CurrentTables
from weighbridge.gateway.wire.client import Clients
from weighbridge.gateway.wire.heads import read_answer_head
from weighbridge.gateway.wire.limits import Limits
from weighbridge.gateway.wire.outbox import Outbox
from weighbridge.gateway.wire.timers import Timers
from weighbridge.gateway.wire.upstream import Upstreams
from weighbridge.routing.acks import WorkerColumn
from weighbridge.usage.spool import Spool

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked"
TICK_S = 0.1
COMMENT = b": keep-alive"
TOO_LATE = b"deadline_exceeded"


class Asked:
    """A streaming request that has just been sent to the first of two replicas; nothing answers by itself."""

    def __init__(self, process: GatewayProcess, limits: Limits) -> None:
        self.now_s = 1000.0
        clock = Clock(monotonic=lambda: self.now_s)
        current = CurrentTables()
        column = WorkerColumn(process.view._memory, 0, 1)
        paths = process.paths
        snapshots = Snapshots(paths.routes_file, paths.keys_file, current, column)
        snapshots.refresh()
        ledger = Ledger(open_ledger(paths.quotas_file), 0, clock.now().timestamp())
        meter = Meter(Quotas(ledger, clock), Turns(QueueLimits()), process.view)
        ended = EndedRequests(
            Figures(), Spool(paths.usage, "one"), AccessLog(2, "gateway-0", "error", clock.now)
        )
        self.timers = Timers(self.now_s)
        outbox = Outbox(lambda flush: flush())
        self.upstreams = Upstreams(self.timers, outbox, limits.connect_s)
        choice = Choice(current, process.view)
        holds = Holds(HoldLimits(requests_max=0), current, choice.ready, clock)
        site = PublicSite(
            Desk(snapshots, current, process.pepper, meter, ended, limits, clock),
            Replicas(choice, holds, column, self.upstreams, process.pepper),
            self.upstreams,
            ControlPlanes(paths, ()),
        )
        self.transport = Transport()
        self.client = Clients(site, self.timers, outbox, limits, clock).connect()
        self.transport.connection = self.client
        self.client.connection_made(self.transport)
        self.client.data_received(request())
        self.visit = self.client._visit
        self.names = {
            replica.replica_id: replica.served_name
            for replica in current.tables.endpoints[ENDPOINT].replicas
        }

    def begin(self) -> None:
        """The replica that was asked begins a stream."""
        self.name = self.names[self.visit.record.replica_id]
        self.visit.answer_head(read_answer_head(STREAM), length_known=False)

    def say(self, **delta: object) -> None:
        choice = {"index": 0, "finish_reason": None, "delta": delta}
        event = {"model": self.name, "choices": [choice]}
        self.visit.answer_data(b"data: " + json.dumps(event).encode() + b"\n\n")

    def wait(self, seconds: float) -> None:
        """No deadline may be left that has passed: it would be asked for at each tick of the wheel."""
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.timers.advance(self.now_s)
            assert self.client.due_s > self.now_s - 2 * TICK_S

    def waited_until(self, what: bytes, limit_s: float) -> float:
        """Seconds until the caller has been sent this."""
        began_s = self.now_s
        while what not in self.transport.sent:
            assert self.now_s - began_s < limit_s
            self.wait(TICK_S)
        return self.now_s - began_s


def request() -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": ENDPOINT, "messages": messages, "stream": True}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )


@asynccontextmanager
async def asked(root: Path, **limits: float) -> AsyncIterator[Asked]:
    """Its connections are begun, but the loop does not turn while the test looks."""
    process = GatewayProcess(root / "data")
    process.publish_keys()
    replicas = [process.replica(f"r{n}", "http://127.0.0.1:1", slot=n) for n in range(2)]
    process.publish_routes(process.endpoint(*replicas))
    made = Asked(process, Limits(**limits))
    try:
        yield made
    finally:
        await made.upstreams.close()


async def test_an_engine_that_takes_long_to_begin_is_waited_for_in_silence(tmp_path):
    async with asked(tmp_path) as one:
        one.wait(60)
        assert one.transport.sent == b""
        assert one.waited_until(TOO_LATE, 600) == pytest.approx(540, abs=1)


async def test_a_stream_ends_so_long_after_its_last_event(tmp_path):
    async with asked(tmp_path, stream_keepalive_s=math.inf) as one:
        one.begin()
        for _ in range(30):
            one.say(content="word")
            one.wait(60)
        assert TOO_LATE not in one.transport.sent


@pytest.mark.parametrize("delta", [{"content": "word"}, {"content": None}])
@pytest.mark.parametrize("keepalive_s", [15.0, math.inf])
async def test_silence_is_told_from_the_last_event_whether_or_not_the_caller_saw_it(
    tmp_path, delta, keepalive_s
):
    async with asked(tmp_path, stream_keepalive_s=keepalive_s, attempts_max=1) as one:
        one.begin()
        for _ in range(2):
            one.wait(30)
            one.say(**delta)
        assert one.waited_until(TOO_LATE, 200) == pytest.approx(120, abs=1.5)


async def test_a_caller_gets_a_comment_when_nothing_was_sent_for_long(tmp_path):
    async with asked(tmp_path) as one:
        one.begin()
        one.say(content="word")
        one.wait(14)
        one.say(content="word")
        one.wait(14)
        assert COMMENT not in one.transport.sent
        assert one.waited_until(COMMENT, 20) <= 2.5


async def test_a_tool_call_that_is_not_whole_keeps_the_stream_open_by_comments(tmp_path):
    async with asked(tmp_path) as one:
        one.begin()
        one.say(role="assistant", content="I look it up")
        for piece in range(100):
            function = {"name": "look_up" if not piece else None, "arguments": "x"}
            one.say(tool_calls=[{"index": 0, "id": "c1", "function": function}])
            one.wait(2)
        assert TOO_LATE not in one.transport.sent
        assert 11 <= one.transport.sent.count(COMMENT) <= 13


async def test_the_events_of_a_replica_that_failed_do_not_count_for_the_next(tmp_path):
    async with asked(tmp_path, idle_s=0.8) as one:
        one.begin()
        for _ in range(5):
            one.say(content=None)
            one.wait(0.3)
        first = one.visit.record.replica_id
        one.visit.answer_lost(UnavailableError("gone", code="answer_cut"))
        assert one.visit.record.replica_id != first
        one.begin()
        for _ in range(3):
            one.say(content="word")
            one.wait(0.3)
        assert TOO_LATE not in one.transport.sent
        assert one.waited_until(TOO_LATE, 5) <= 2
