"""A caller's connection keeps its limits of time and size, whatever the caller does."""

import pytest
from client_wire import Wire

from weighbridge.gateway.proxy import states
from weighbridge.gateway.wire import upstream, visits
from weighbridge.gateway.wire.framing import TRANSITIONS as CHUNK_TRANSITIONS
from weighbridge.gateway.wire.limits import AHEAD_BYTES_MAX, DISCARD_BYTES_MAX, Limits

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = Limits()


def post(size: int, body: bytes = b"") -> bytes:
    return b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (size, body)


@pytest.mark.parametrize(
    "transitions",
    [visits.TRANSITIONS, upstream.TRANSITIONS, states.TRANSITIONS, CHUNK_TRANSITIONS],
)
def test_every_state_has_a_row_and_a_way_to_the_end(transitions):
    states = set(type(next(iter(transitions))))
    assert set(transitions) == states
    assert set().union(*transitions.values()) <= states
    reaching = {state for state, to in transitions.items() if not to}
    assert reaching
    for _ in states:
        reaching |= {state for state, to in transitions.items() if to & reaching}
    assert reaching == states


def test_a_head_that_drips_in_ends_after_its_limit_however_often_a_byte_comes():
    wire = Wire()
    for byte in GET[:20]:
        wire.receive(bytes([byte]))
        wire.wait(LIMITS.head_s / 15)
        if wire.transport.closed:
            break
    assert wire.visits[-1].refused == "head_too_slow"
    assert wire.transport.sent.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in wire.transport.sent


def test_a_body_that_stalls_ends_after_its_limit():
    wire = Wire()
    wire.receive(post(100, b"some"))
    wire.wait(LIMITS.body_idle_s - 1)
    assert wire.transport.sent == b""
    wire.wait(2)
    assert wire.visits[0].refused == "body_too_slow"
    assert wire.transport.sent.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_drips_in_ends_with_the_time_of_the_whole_request():
    wire = Wire(limits=Limits(request_max_s=300))
    wire.receive(post(1000, b"some"))
    for _ in range(20):
        wire.wait(LIMITS.body_idle_s / 2)
        wire.receive(b"x")
    assert wire.visits[0].refused == "body_too_slow"


def test_an_idle_connection_is_closed_without_a_word():
    wire = Wire()
    wire.receive(GET)
    sent = wire.transport.sent
    wire.wait(LIMITS.keepalive_s - 1)
    assert not wire.transport.closed
    wire.wait(2)
    assert wire.transport.closed
    assert wire.transport.sent == sent


def test_what_is_sent_ahead_waits_and_is_bounded():
    wire = Wire(answers_at_once=False)
    wire.receive(GET)
    for _ in range(AHEAD_BYTES_MAX // len(GET) + 2):
        wire.receive(GET)
    assert len(wire.visits) == 1
    assert not wire.transport.reading
    wire.answers_at_once = True
    wire.visits[0].client.answer(200, b"", b"")
    assert len(wire.visits) == AHEAD_BYTES_MAX // len(GET) + 3
    assert wire.transport.reading


def test_a_caller_that_does_not_read_gets_no_second_answer_and_is_dropped():
    wire = Wire()
    wire.connection.pause_writing()
    wire.receive(GET + GET)
    assert len(wire.visits) == 1
    wire.wait(LIMITS.write_s + 1)
    assert wire.transport.aborted


def test_a_caller_that_reads_on_gets_its_next_answer():
    wire = Wire()
    wire.connection.pause_writing()
    wire.receive(GET + GET)
    wire.connection.resume_writing()
    assert len(wire.visits) == 2
    wire.wait(LIMITS.write_s + 1)
    assert not wire.transport.closed


def test_a_slow_reader_of_a_stream_is_the_visit_s_to_hold_back_and_then_gone():
    wire = Wire(answers_at_once=False)
    wire.receive(GET)
    visit = wire.visits[0]
    visit.client.begin_stream(b"", b"first")
    wire.connection.pause_writing()
    visit.client.deadline(wire.now_s + 1)
    wire.wait(5)
    assert visit.events == ["held_back"]
    wire.wait(LIMITS.write_s)
    assert visit.events == ["held_back", "gone"]
    assert wire.transport.aborted


def test_a_visit_s_deadline_is_kept_to_a_tick_and_moved_at_will():
    wire = Wire(answers_at_once=False)
    wire.receive(GET)
    visit = wire.visits[0]
    visit.client.deadline(wire.now_s + 100)
    visit.client.deadline(wire.now_s + 2)
    wire.wait(1.9)
    assert visit.events == []
    wire.wait(0.2)
    assert visit.events == ["expired"]
    visit.client.deadline(wire.now_s + 1)
    visit.client.deadline(wire.now_s + 50)
    wire.wait(40)
    assert visit.events == ["expired"]
    wire.wait(11)
    assert visit.events == ["expired", "expired"]


def test_the_rest_of_a_refused_body_is_read_over_and_the_connection_kept():
    wire = Wire()
    wire.receive(post(2000, b"x" * 1500))
    assert wire.visits[0].refused == "body_too_large"
    wire.receive(b"x" * 500 + GET)
    assert wire.asked == [("GET", "/a", b"")]


def test_a_refused_body_that_never_ends_costs_a_moment_and_no_memory():
    wire = Wire()
    wire.receive(post(10**9))
    assert wire.transport.ended
    wire.receive(b"x" * DISCARD_BYTES_MAX)
    assert not wire.transport.closed
    wire.receive(b"x")
    assert wire.transport.aborted
    slow = Wire()
    slow.receive(post(10**9))
    slow.wait(LIMITS.discard_s + 1)
    assert slow.transport.aborted


def test_a_caller_that_leaves_is_told_to_its_visit_once():
    wire = Wire(answers_at_once=False)
    wire.receive(GET)
    wire.connection.connection_lost(None)
    wire.wait(1000)
    assert wire.visits[0].events == ["gone"]
    assert not wire.clients.open


def test_a_retiring_connection_answers_and_closes():
    wire = Wire(answers_at_once=False)
    wire.receive(GET)
    wire.clients.retire()
    assert not wire.transport.closed
    wire.visits[0].client.answer(200, b"", b"")
    assert b"connection: close" in wire.transport.sent
    assert wire.transport.closed


def test_an_idle_connection_retires_at_once():
    wire = Wire()
    wire.clients.retire()
    assert wire.transport.closed


def test_an_idle_connection_that_may_be_used_once_more_closes_with_its_next_answer():
    wire = Wire()
    wire.clients.retiring = True
    assert not wire.transport.closed
    wire.receive(GET)
    assert b"connection: close" in wire.transport.sent
    assert wire.transport.closed


def test_a_stream_to_http_1_0_ends_with_its_connection():
    wire = Wire(answers_at_once=False)
    wire.receive(b"GET / HTTP/1.0\r\n\r\n")
    wire.visits[0].client.begin_stream(b"", b"one")
    wire.visits[0].client.write_chunk(b"two")
    wire.visits[0].client.end_stream()
    assert b"transfer-encoding" not in wire.transport.sent
    assert wire.transport.sent.endswith(b"\r\n\r\nonetwo")
    assert wire.transport.closed
