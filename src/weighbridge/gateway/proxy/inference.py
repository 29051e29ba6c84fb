"""One inference request on its way: a replica is asked, another if that fails in time, and the answer goes back.

Its states are a table (`states`); what an answer looks like is decided in `answers`, which replica in
`choosing`, whether it may and when it is its turn in `limits`.
"""

from typing import Final

from weighbridge.errors import InvalidError, LimitError, UnavailableError, WeighbridgeError
from weighbridge.gateway.admission import admit
from weighbridge.gateway.answers.rendering import AnswerIdentity, Elapsed, WrongIdentityError
from weighbridge.gateway.answers.shapes import EngineUsage
from weighbridge.gateway.answers.stream import AnswerStream
from weighbridge.gateway.answers.whole import ANSWER_BYTES_MAX, refusal_of, whole_answer
from weighbridge.gateway.errors import error_answer, error_event
from weighbridge.gateway.limits.refusals import NotReadyError
from weighbridge.gateway.metrics.access import AccessRecord
from weighbridge.gateway.proxy.answering import JSON_TYPE, STREAM_FIELDS, Desk
from weighbridge.gateway.proxy.failures import (
    TooLateError,
    engine_failed,
    is_gone,
    no_answer,
    too_long,
)
from weighbridge.gateway.proxy.replicas import Replicas
from weighbridge.gateway.proxy.states import State
from weighbridge.gateway.proxy.waiting import WaitingVisit
from weighbridge.gateway.wire.heads import AnswerHead, RequestHead
from weighbridge.gateway.wire.writing import AnswerWriter
from weighbridge.routing.model import KeyEntry, ReplicaRoute
from weighbridge.usage.model import NO_VERSION

REFUSAL_BYTES_MAX: Final = 64 * 1024
_WRONG_IDENTITY: Final = frozenset({401, 403, 404, 421})
_EVENT_TYPE: Final = "text/event-stream"
_WAITING: Final = State.WAITING
_ASKED: Final = State.ASKED
_WHOLE: Final = State.WHOLE
_REFUSAL: Final = State.REFUSAL
_PROVING: Final = State.PROVING
_STREAMING: Final = State.STREAMING
_DONE: Final = State.DONE


class InferenceVisit(WaitingVisit):
    """The caller's side calls it as a visit, the replica's connection as an asker; it is over once it is DONE."""

    __slots__ = (
        "_head", "_identity", "_key", "_received", "_received_bytes", "_replica",
    )  # fmt: skip

    def __init__(
        self,
        desk: Desk,
        replicas: Replicas,
        client: AnswerWriter,
        record: AccessRecord,
        head: RequestHead,
    ) -> None:
        super().__init__(desk, client, record, replicas)
        self._head = head
        self._replica: ReplicaRoute | None = None
        self._received: list[bytes]
        self._received_bytes: int
        self._key: KeyEntry
        self._identity: AnswerIdentity

    # The caller's side.

    def accept(self) -> int:
        if self._head.method != "POST":
            raise InvalidError("This path takes POST only", code="method_not_allowed")
        self._key = self.desk.caller(self._head, self.record)
        return self.desk.limits.body_bytes_max

    def start(self, body: bytes) -> None:
        head = self._head
        try:
            admitted = self._admitted = admit(
                head.path,
                body,
                content_type=head.values.get("content-type", ""),
                content_encoding=head.values.get("content-encoding", ""),
                # `accept` has seen that there are tables; these may be newer.
                tables=self.desk.current.tables,
                key=self._key,
                patch=head.values.get("x-cerebras-version-patch"),
                queue_threshold=head.values.get("queue_threshold"),
            )
            self.record.endpoint_id = admitted.endpoint.endpoint_id
            if admitted.queue_max_s is not None:
                self._check_queue(admitted.queue_max_s)
            self.desk.meter.admit(self._key, admitted, self.record)
            self._ask_first(len(body))
        except WeighbridgeError as error:
            self.refuse(error)
        except Exception as error:  # noqa: BLE001 - the edge of a request: logged, and answered with 500
            self.refuse(self.failed(error))

    def refuse(self, error: WeighbridgeError) -> None:
        self._leave_line()
        self._let_go_of_replica()
        if self._begun:
            self._end_by_event(error)
            return
        self._state = _DONE
        super().refuse(error)

    def gone(self) -> None:
        self._leave_line()
        self._let_go_of_replica()
        self._state = _DONE
        self._count_stream()
        super().gone()

    def finish(self) -> None:
        self.desk.meter.settle(self.record)
        super().finish()

    def held_back(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    # The line's side.

    def proceed(self) -> bool:
        try:
            self._ask_next(None)
        except WeighbridgeError as error:
            if error.code == "queue_exceeded":
                return False
            self._hold_or_refuse(error)
        except Exception as error:  # noqa: BLE001 - as in `start`
            self.refuse(self.failed(error))
        return True

    def turned_away(self, error: WeighbridgeError) -> None:
        self.refuse(error)

    # The replica's side.

    def answer_head(self, head: AnswerHead, *, length_known: bool) -> None:
        status = head.status
        if status == 200 and not self._admitted.stream:
            self._state = _WHOLE
        elif status == 200 and head.values.get("content-type", "").startswith(_EVENT_TYPE):
            self._state, self._answer = _PROVING, AnswerStream(self._identity)
        elif status in _WRONG_IDENTITY:
            what = f"A replica answered {status} to its own token"
            self._attempt_failed(WrongIdentityError(what))
        elif status == 429:
            self._attempt_failed(LimitError("The replica's queue is full", code="queue_exceeded"))
        elif 400 <= status < 500:
            self._state = _REFUSAL
        else:
            self._attempt_failed(engine_failed(f"A replica answered {status}"))

    def answer_data(self, data: bytes) -> None:
        answer = self._answer
        if self._state is _STREAMING and answer is not None and answer.ordinary:
            frame = answer.repeated.frame(data)
            if frame:
                self.client.write_chunk(frame)
                return
        if self._state >= _PROVING:
            self._events(data)
            return
        self._received.append(data)
        self._received_bytes += len(data)
        limit = REFUSAL_BYTES_MAX if self._state is _REFUSAL else ANSWER_BYTES_MAX
        if self._received_bytes > limit:
            self._attempt_failed(too_long())

    def answer_whole(self, head: AnswerHead, body: bytes) -> None:
        self._upstream = None
        self.answer_head(head, length_known=True)
        if self._state is _WHOLE:
            self._reply_whole(body)
        elif self._state is _PROVING:
            self.answer_data(body)
            self._stream_ended(None)

    def answer_end(self) -> None:
        self._upstream = None
        if self._state is _WHOLE:
            self._reply_whole(b"".join(self._received))
        elif self._state is _REFUSAL:
            self.refuse(refusal_of(b"".join(self._received), self._identity))
        elif self._answer is not None:
            self._stream_ended(None)

    def answer_lost(self, error: UnavailableError) -> None:
        connection, self._upstream = self._upstream, None
        if connection is not None and connection.reused and not connection.began:
            # llama.cpp closes many a connection without saying so; only a fresh one tells whether it lives.
            self._ask(self.desk.clock.monotonic(), fresh=True)
            return
        if self._answer is not None:
            self._stream_ended(error)
        else:
            self._attempt_failed(error)

    # Asking.

    def _ask_first(self, size_bytes: int) -> None:
        """At once, or in turn when there is no place or others wait for one already."""
        turns, endpoint_id = self.desk.meter.turns, self._admitted.endpoint.endpoint_id
        if self._replicas.holds.busy(endpoint_id):
            self._enter_hold()
            return
        if not turns.busy(endpoint_id):
            try:
                self._ask_next(None)
            except NotReadyError:
                self._enter_hold()
                return
            except LimitError as error:
                if error.code != "queue_exceeded" or not turns.limits.requests_max:
                    raise
            else:
                return
        self._state = _WAITING
        self._turn = turns.join(endpoint_id, self.record.key_id, size_bytes, self)
        self._wait(turns.limits.wait_s, self.desk.clock.monotonic())

    def _ask_next(self, failure: WeighbridgeError | None) -> None:
        """Choose a replica that was not tried and ask it. Raises the error to answer with when there is none."""
        endpoint, record = self._admitted.endpoint, self.record
        replica = None
        if record.attempts < self.desk.limits.attempts_max:
            replica = self._replicas.choice.replica(endpoint, self._tried, self._admitted.affinity)
        if replica is None:
            raise no_answer(endpoint.endpoint_id, failure)
        self._tried.append(replica.replica_id)
        record.attempts += 1
        now_s = record.asked_s = self.desk.clock.monotonic()
        record.replica_id, record.version = replica.replica_id, replica.version
        # Nothing comes between choice and count: whoever waits for a drained slot sees this request (G5).
        self._replica = replica
        self._replicas.counts[replica.slot] += 1
        if self._turn is not None or self._hold is not None:
            self._leave_line()
        self._identity = self._admitted.identity(replica, record.request_id, record.arrived_unix_s)
        self._ask(now_s, fresh=False)

    def _ask(self, now_s: float, *, fresh: bool) -> None:
        replica = self._replica
        assert replica is not None
        self._state, self._received, self._received_bytes = _ASKED, [], 0
        self._wait(self.desk.limits.first_byte_s, now_s)
        path, rest = self._admitted.path, self._admitted.rest
        self._upstream = self._replicas.ask(
            replica, path, rest, self.record.request_id, self, fresh=fresh
        )

    def _attempt_failed(self, failure: WeighbridgeError) -> None:
        """Nothing of this replica has reached the caller (G3)."""
        replica, self._answer = self._replica, None
        self._events_seen = self._chunks_seen = 0
        assert replica is not None
        self._let_go_of_replica()
        if not isinstance(failure, LimitError):
            self._replicas.choice.failed(replica, failure)
            if not is_gone(failure) and self.record.failed_version == NO_VERSION:
                # It answered, and wrongly: that speaks against its version, whichever answers in the end.
                self.record.failed_version = replica.version
        try:
            self._ask_next(failure)
        except WeighbridgeError as error:
            self._hold_or_refuse(error, failure)

    def _let_go_of_replica(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        self._release()

    def _release(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            self._replicas.counts[replica.slot] -= 1
            self.desk.meter.turns.freed(self._admitted.endpoint.endpoint_id)

    # Answering.

    def _reply_whole(self, body: bytes) -> None:
        now_s = self.record.first_byte_s = self.desk.clock.monotonic()
        try:
            if len(body) > ANSWER_BYTES_MAX:
                raise too_long()
            answer = whole_answer(body, self._identity, self._elapsed(now_s))
        except UnavailableError as error:
            self._attempt_failed(error)
            return
        self._count(answer.usage, 0)
        self._release()
        self._state = _DONE
        self.reply(200, JSON_TYPE, answer.body)

    def _events(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or self._state is _DONE:
            return
        now_s = self.desk.clock.monotonic()
        try:
            frames = answer.feed(data, self._elapsed(now_s))
        except UnavailableError as error:
            if answer.unsent and self._state is _STREAMING:
                self._send(answer.unsent)
            self._break_off(error)
            return
        if answer.complete:
            self._complete(frames)
        elif frames:
            self._send(frames)
        elif self._state is _PROVING:
            self._look(now_s)

    def _stream_ended(self, error: UnavailableError | None) -> None:
        """The engine has closed its stream. With every choice finished only its good-bye is missing."""
        answer = self._answer
        if answer is None or self._state is _DONE:
            return
        if error is not None and not answer.finished:
            self.record.cut = self._state is _STREAMING
            self._break_off(UnavailableError("The engine broke off the answer", code="answer_cut"))
            return
        try:
            frames = answer.end(self._elapsed(self.desk.clock.monotonic()))
        except UnavailableError as early:
            self._break_off(early)
            return
        self._complete(frames)

    def _send(self, frames: bytes) -> None:
        if self._state is _STREAMING:
            self.client.write_chunk(frames)
            return
        begun, self._state = self._begun, _STREAMING
        now_s = self.record.first_byte_s = self.desk.clock.monotonic()
        self._look(now_s)
        if begun:
            self.client.write_chunk(frames)
        else:
            self.client.begin_stream(STREAM_FIELDS + self.own_fields(), frames)

    def _complete(self, frames: bytes) -> None:
        """`frames` are the answer's last."""
        if self._state is not _STREAMING:
            self._send(frames)
            frames = b""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.finish()
        self.record.status = 200
        self._end_stream(frames)

    def _break_off(self, error: UnavailableError) -> None:
        """The one error event of a stream that has begun (G2); before that, another replica or the error."""
        if self._state is not _STREAMING:
            if isinstance(error, TooLateError):
                self.refuse(error)
            else:
                self._attempt_failed(error)
            return
        self._let_go_of_replica()
        self._end_by_event(error)

    def _end_by_event(self, error: WeighbridgeError) -> None:
        self.record.status, self.record.code = error_answer(error).status, error.code
        self._end_stream(error_event(error, self._admitted.answer_id(self.record.request_id)))

    def _end_stream(self, last: bytes) -> None:
        self._release()
        self._state = _DONE
        self._count_stream()
        self.finish()
        self.client.end_stream(last)

    # What the answer says of itself, and the record.

    def _elapsed(self, now_s: float) -> Elapsed:
        record = self.record
        first_s = now_s if record.first_byte_s is None else record.first_byte_s
        return Elapsed(first_s - record.started_s, now_s - record.started_s)

    def _count_stream(self) -> None:
        if self._answer is not None:
            self._count(self._answer.usage, self._answer.chunks)

    def _count(self, usage: EngineUsage | None, chunks: int) -> None:
        self.desk.meter.count(self.record, self._admitted, usage, chunks)
