"""What all visits share: the record of the request, and the answers that need no upstream."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from weighbridge.clock import Clock
from weighbridge.errors import UnavailableError, WeighbridgeError
from weighbridge.gateway.auth import authenticate
from weighbridge.gateway.errors import error_answer
from weighbridge.gateway.limits.meter import Meter
from weighbridge.gateway.metrics.access import AccessRecord
from weighbridge.gateway.metrics.ended import EndedRequests
from weighbridge.gateway.snapshots import Snapshots
from weighbridge.gateway.table import CurrentTables, Tables
from weighbridge.gateway.wire.heads import RequestHead
from weighbridge.gateway.wire.limits import Limits
from weighbridge.gateway.wire.upstream import Asker
from weighbridge.gateway.wire.writing import AnswerWriter
from weighbridge.routing.model import KeyEntry

log = structlog.get_logger()

JSON_TYPE: Final = b"content-type: application/json\r\n"
STREAM_FIELDS: Final = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\n"
)


@dataclass(frozen=True, slots=True)
class Desk:
    """What a worker's visits decide by and leave their records with; its parts are the worker's, it holds no state."""

    snapshots: Snapshots
    current: CurrentTables
    pepper: bytes
    meter: Meter
    ended: EndedRequests
    limits: Limits
    clock: Clock

    def tables(self) -> Tables:
        if not self.snapshots.loaded:
            # Without tables every key would look wrong, and callers do not retry that.
            raise UnavailableError(
                "No routes are published yet; try again shortly", code="control_plane_away"
            )
        return self.current.tables

    def caller(self, head: RequestHead, record: AccessRecord) -> KeyEntry:
        # More than one header are joined by a comma here, which no key has.
        authorization = head.values.get("authorization", "")
        key = self.current.tables.callers.get(authorization)
        if key is None:
            tables = self.tables()
            key = authenticate(
                head.every("authorization"), tables, self.pepper, self.clock.unix_s()
            )
            tables.remember(authorization, key)
        record.org_id, record.key_id = key.org_id, key.key_id
        return key


class Answering(Asker):
    """The part of a visit that answers and keeps the record; each visit ends in `finish`, once."""

    __slots__ = ("client", "desk", "record")

    def __init__(self, desk: Desk, client: AnswerWriter, record: AccessRecord) -> None:
        self.desk = desk
        self.client = client
        self.record = record

    def refuse(self, error: WeighbridgeError) -> None:
        answer = error_answer(error)
        self.record.code = error.code
        fields = b"".join(f"{name}: {value}\r\n".encode() for name, value in answer.headers.items())
        self.reply(answer.status, JSON_TYPE + fields, answer.body)

    def reply(self, status: int, fields: bytes, body: bytes) -> None:
        self.record.status = status
        self.finish()
        self.client.answer(status, fields + self.own_fields(), body)

    def reply_json(self, value: Mapping[str, object]) -> None:
        self.reply(200, JSON_TYPE, msgspec.json.encode(value))

    def own_fields(self) -> bytes:
        """What every answer of ours says: how limits stand, where there are any, and which request it was."""
        record = self.record
        return b"%bx-request-id: %b\r\n" % (record.answer_fields, record.request_id.encode())

    def gone(self) -> None:
        self.finish()

    def expired(self) -> None:
        """Most visits are over before a deadline could be."""

    def held_back(self) -> None:
        """A whole answer is in the connection's buffer already."""

    def let_go(self) -> None:
        """As `held_back`."""

    def finish(self) -> None:
        self.record.ended_s = self.desk.clock.monotonic()
        self.desk.ended.add(self.record)

    def failed(self, error: Exception) -> WeighbridgeError:
        """What to say of a fault of ours, which goes to the log."""
        log.error("request.failed", request_id=self.record.request_id, exc_info=error)
        return WeighbridgeError("Something went wrong here")
