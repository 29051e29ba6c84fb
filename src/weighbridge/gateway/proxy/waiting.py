"""An inference request's waits: in the endpoint's line, held until a replica is ready, and for a replica's answer."""

from abc import abstractmethod
from typing import Final

from weighbridge.errors import UnavailableError, WeighbridgeError
from weighbridge.gateway.admission import Admitted
from weighbridge.gateway.answers.stream import AnswerStream
from weighbridge.gateway.limits.holds import Held, Holds, Waiter
from weighbridge.gateway.limits.refusals import NotReadyError, queue_refusal, threshold_refusal
from weighbridge.gateway.limits.turns import Turn
from weighbridge.gateway.metrics.access import AccessRecord
from weighbridge.gateway.proxy.answering import STREAM_FIELDS, Answering, Desk
from weighbridge.gateway.proxy.failures import TooLateError, is_gone
from weighbridge.gateway.proxy.replicas import Replicas
from weighbridge.gateway.proxy.states import State
from weighbridge.gateway.wire.upstream import UNREACHABLE, UpstreamConnection
from weighbridge.gateway.wire.writing import AnswerWriter

_WAITING: Final = State.WAITING
_PROVING: Final = State.PROVING
_STREAMING: Final = State.STREAMING
KEEP_ALIVE: Final = b": keep-alive\n\n"
COMMENT_S: Final = 5.0
"""Between two comments of a held stream: below what clients and proxies wait for a byte."""
COMMENT: Final = b": hold\n\n"
LOOK_S: Final = 1.0
"""How often a stream is looked at: an event itself takes no look at the clock, so it counts from the next one."""


class Hold:
    """A held stream gets its head after a while (`begun`): a refusal that comes before it is one that clients try
    again by themselves, and one that comes after it can only be an error event. What is not streamed just waits.
    """

    __slots__ = (
        "_answering", "_comment_s", "_held", "_holds", "_inside", "_stream", "_waiter", "begun",
    )  # fmt: skip

    def __init__(self, answering: Answering, waiter: Waiter, holds: Holds, *, stream: bool) -> None:
        self._answering = answering
        self._waiter = waiter
        self._holds = holds
        self._stream = stream
        self._held: Held | None = None
        self._comment_s = 0.0
        self._inside = False
        self.begun = False

    def enter(self, endpoint_id: str, size_bytes: int) -> None:
        """Also again, after a replica that failed; all in all it waits no longer. Raises NotReadyError."""
        now_s = self._answering.desk.clock.monotonic()
        if self._held is None:
            self._held = self._holds.join(
                endpoint_id,
                self._answering.record.key_id,
                size_bytes,
                self._waiter,
                stream=self._stream,
            )
            self._comment_s = now_s + self._holds.limits.head_s
        elif now_s < self._held.due_s:
            self._holds.rejoin(self._held)
        else:
            raise self._holds.expired(self._held)
        self._inside = True
        self.rearm()

    def leave(self) -> None:
        """Its turn has come, or it has ended; once more does nothing."""
        held = self._held
        if held is not None and self._inside:
            self._inside = False
            self._holds.leave(held)
            now_s = self._answering.desk.clock.monotonic()
            self._answering.record.held_s = now_s - held.since_s

    def expired(self) -> NotReadyError | None:
        """The moment that `rearm` has asked for: a comment is due, or (then it says so) the wait is over."""
        assert self._held is not None
        now_s = self._answering.desk.clock.monotonic()
        if now_s >= self._due_s(self._held):
            return self._holds.expired(self._held)
        if self._stream and now_s >= self._comment_s:
            self._comment_s = now_s + COMMENT_S
            self._comment()
        self.rearm()
        return None

    def rearm(self) -> None:
        assert self._held is not None
        due_s = self._due_s(self._held)
        self._answering.client.deadline(min(due_s, self._comment_s) if self._stream else due_s)

    def _due_s(self, held: Held) -> float:
        desk, record = self._answering.desk, self._answering.record
        return min(held.due_s, record.started_s + desk.limits.request_max_s)

    def _comment(self) -> None:
        client = self._answering.client
        if self.begun:
            client.write_chunk(COMMENT)
        else:
            self.begun = True
            client.begin_stream(STREAM_FIELDS + self._answering.own_fields(), COMMENT)


class WaitingVisit(Answering):
    """The part of an inference visit that waits: in the endpoint's line, held, or for a replica's answer."""

    __slots__ = (
        "_admitted", "_answer", "_chunks_seen", "_comment_s", "_due_s", "_events_seen", "_hold", "_replicas", "_state",
        "_tried", "_turn", "_upstream", "_waiting_since_s",
    )  # fmt: skip

    def __init__(
        self, desk: Desk, client: AnswerWriter, record: AccessRecord, replicas: Replicas
    ) -> None:
        super().__init__(desk, client, record)
        self._replicas = replicas
        self._state = State.ACCEPTED
        self._tried: list[str] = []
        self._waiting_since_s = self._due_s = self._comment_s = 0.0
        self._upstream: UpstreamConnection | None = None
        self._turn: Turn | None = None
        self._hold: Hold | None = None
        self._answer: AnswerStream | None = None
        self._events_seen = self._chunks_seen = 0
        self._admitted: Admitted

    @abstractmethod
    def proceed(self) -> bool:
        """As `turns.Waiter` and `holds.Waiter` ask."""

    @abstractmethod
    def turned_away(self, error: WeighbridgeError) -> None:
        """As `proceed`."""

    @abstractmethod
    def _break_off(self, error: UnavailableError) -> None:
        """The answer cannot go on."""

    def expired(self) -> None:
        now_s = self.desk.clock.monotonic()
        if self._state is _WAITING and self._turn is None:
            self._hold_expired()
            return
        self._take_note(now_s)
        if now_s < self._due_s:
            if now_s >= self._comment_s:
                self._comment_s = now_s + self.desk.limits.stream_keepalive_s
                if self._begun:
                    self.client.write_chunk(KEEP_ALIVE)
            self._rearm(now_s)
        elif self._state is _WAITING:
            self.refuse(queue_refusal(self._admitted.endpoint.endpoint_id))
        else:
            self._break_off(TooLateError())

    def let_go(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()
            self._wait(self.desk.limits.idle_s, self.desk.clock.monotonic())
        elif self._turn is not None:
            self._rearm(self.desk.clock.monotonic())
        elif self._state is _WAITING and self._hold is not None:
            self._hold.rearm()

    def _leave_line(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            now_s = self.desk.clock.monotonic()
            self.record.queued_s = now_s - self._waiting_since_s
            self.desk.meter.queue_times.add(turn.endpoint_id, self.record.queued_s, now_s)
            self.desk.meter.turns.leave(turn)
        if self._hold is not None:
            self._hold.leave()

    def _check_queue(self, queue_max_s: float) -> None:
        """Raises LimitError where callers have lately waited longer than this one would."""
        endpoint, meter, holds = self._admitted.endpoint, self.desk.meter, self._replicas.holds
        wait_s = 0.0
        if holds.busy(endpoint.endpoint_id):
            wait_s = holds.ready_in_s(endpoint)
        elif meter.turns.busy(endpoint.endpoint_id):
            wait_s = meter.queue_times.mean_s(endpoint.endpoint_id, self.desk.clock.monotonic())
        if wait_s > queue_max_s:
            raise threshold_refusal(endpoint.endpoint_id, wait_s)

    def _enter_hold(self) -> None:
        """Wait for a replica that comes back. Raises NotReadyError where that is not worth it."""
        self._leave_line()
        admitted = self._admitted
        if self._hold is None:
            self._hold = Hold(self, self, self._replicas.holds, stream=admitted.stream)
        self._state = _WAITING
        self._hold.enter(admitted.endpoint.endpoint_id, len(admitted.rest))

    def _hold_or_refuse(
        self, error: WeighbridgeError, failure: WeighbridgeError | None = None
    ) -> None:
        """`failure` is how the last replica failed; one that is gone is asked again, or another in its place."""
        if failure is not None and failure.code == UNREACHABLE:
            # Nothing was sent, so it was no attempt that could have done anything.
            self.record.attempts -= 1
        again = is_gone(failure) and self.record.attempts < self.desk.limits.attempts_max
        if again or isinstance(error, NotReadyError):
            self._tried.clear()
            try:
                self._enter_hold()
            except NotReadyError as refusal:
                self.refuse(error if again else refusal)
        else:
            self.refuse(error)

    def _hold_expired(self) -> None:
        error = None if self._hold is None else self._hold.expired()
        if error is not None:
            self.refuse(error)

    @property
    def _begun(self) -> bool:
        """Whether the caller has the head of a stream; from then on an error can only be an event."""
        return self._state is _STREAMING or (self._hold is not None and self._hold.begun)

    def _look(self, now_s: float) -> None:
        """A stream has begun, or something has come that does not reach the caller yet."""
        self._take_note(now_s)
        self._rearm(now_s)

    def _take_note(self, now_s: float) -> None:
        """Of what the engine has said since the last note: it was not idle, and the caller needs no comment."""
        answer = self._answer
        if answer is None:
            return
        if answer.events > self._events_seen:
            # Comments do not count: an engine that only keeps the line open is idle.
            self._events_seen = answer.events
            self._due_s = min(self._end_s, now_s + self.desk.limits.idle_s)
        if answer.chunks > self._chunks_seen:
            self._chunks_seen = answer.chunks
            self._comment_s = now_s + self.desk.limits.stream_keepalive_s

    @property
    def _end_s(self) -> float:
        return self.record.started_s + self.desk.limits.request_max_s

    def _wait(self, wait_s: float, now_s: float) -> None:
        self._waiting_since_s = now_s
        self._due_s = min(self._end_s, now_s + wait_s)
        self._comment_s = now_s + self.desk.limits.stream_keepalive_s
        self._rearm(now_s)

    def _rearm(self, now_s: float) -> None:
        due_s = min(self._due_s, self._comment_s)
        if self._state >= _PROVING:
            due_s = min(due_s, now_s + LOOK_S)
        self.client.deadline(due_s)
