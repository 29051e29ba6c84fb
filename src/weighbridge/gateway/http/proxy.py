"""The inner proxy: choose a replica, forward, and try another while the caller has seen nothing (G3)."""

import asyncio
from dataclasses import dataclass

from aiohttp import ClientResponse, web

from weighbridge.clock import Clock
from weighbridge.errors import LimitError, UnavailableError, WeighbridgeError
from weighbridge.gateway.admission import Admitted
from weighbridge.gateway.answers.rendering import AnswerIdentity
from weighbridge.gateway.answers.whole import whole_answer
from weighbridge.gateway.http.choosing import Choice
from weighbridge.gateway.http.exchange import Exchange, TooLateError
from weighbridge.gateway.http.limits import Limits
from weighbridge.gateway.http.relay import Relay
from weighbridge.gateway.http.upstream import (
    AttemptFailedError,
    Upstreams,
    check_status,
    read_answer,
)
from weighbridge.gateway.limits.turns import Turns
from weighbridge.gateway.metrics.access import AccessRecord
from weighbridge.gateway.requests.writing import encode_for
from weighbridge.routing.acks import WorkerColumn
from weighbridge.routing.model import ReplicaRoute


@dataclass(frozen=True, slots=True)
class Proxy:
    choice: Choice
    column: WorkerColumn
    upstreams: Upstreams
    turns: Turns
    limits: Limits
    clock: Clock

    async def answer(
        self, request: web.BaseRequest, admitted: Admitted, record: AccessRecord
    ) -> web.StreamResponse:
        """Raises the error to answer with while no byte has been sent, else ClientGoneError."""
        prefix = "chatcmpl-" if admitted.is_chat else "cmpl-"
        exchange = Exchange(
            request=request,
            admitted=admitted,
            record=record,
            limits=self.limits,
            clock=self.clock,
            answer_id=prefix + self.clock.new_uuid(),
            created_unix_s=self.clock.now().timestamp(),
        )
        tried: set[str] = set()
        failure: WeighbridgeError | None = None
        for _ in range(self.limits.attempts_max):
            replica = await self._next_replica(admitted, record, tried)
            if replica is None:
                break
            tried.add(replica.replica_id)
            record.attempts += 1
            record.replica_id, record.version = replica.replica_id, replica.version
            # No await between choice and count: whoever waits for a drained slot sees this request (G5).
            try:
                with self.column.hold(replica.slot):
                    return await self._attempt(exchange, replica)
            except AttemptFailedError as error:
                failure = error.cause
            finally:
                self.turns.freed(admitted.endpoint.endpoint_id)
            if not isinstance(failure, LimitError):
                self.choice.failed(replica, failure)
        raise _no_answer(admitted.endpoint.endpoint_id, failure)

    async def _next_replica(
        self, admitted: Admitted, record: AccessRecord, tried: set[str]
    ) -> ReplicaRoute | None:
        """The first one in the request's turn; a further one at once or not at all."""
        if tried:
            return self.choice.replica(admitted.endpoint, tried)
        queued_from_s = self.clock.monotonic()
        try:
            return await self.turns.first(
                admitted.endpoint.endpoint_id,
                record.key_id,
                record.body_bytes,
                lambda: self.choice.replica(admitted.endpoint, tried),
            )
        finally:
            record.queued_s = self.clock.monotonic() - queued_from_s

    async def _attempt(self, exchange: Exchange, replica: ReplicaRoute) -> web.StreamResponse:
        admitted = exchange.admitted
        identity = exchange.identity(replica)
        body = encode_for(replica.served_name, admitted.body)
        try:
            async with (
                asyncio.timeout_at(exchange.first_byte_by_s()) as waiting,
                self.upstreams.post(
                    replica, admitted.path, body, exchange.record.request_id
                ) as upstream,
            ):
                await check_status(upstream, identity)
                if not admitted.stream:
                    return await _whole(exchange, identity, upstream)
                waiting.reschedule(None)  # from here on the relay keeps its own time
                return await Relay(exchange, identity, upstream).run()
        except TimeoutError as error:
            raise TooLateError from error


async def _whole(
    exchange: Exchange, identity: AnswerIdentity, upstream: ClientResponse
) -> web.StreamResponse:
    received = await read_answer(upstream)
    exchange.mark_first_byte()
    try:
        answer = whole_answer(received, identity, exchange.elapsed())
    except UnavailableError as error:
        raise AttemptFailedError(error) from error
    exchange.count_tokens(answer.usage)
    return web.Response(body=answer.body, content_type="application/json")


def _no_answer(endpoint_id: str, failure: WeighbridgeError | None) -> WeighbridgeError:
    if failure is None:
        return UnavailableError(
            f"{endpoint_id} has no ready replica; try again shortly", code="no_ready_replica"
        )
    if isinstance(failure, LimitError):
        return failure
    return UnavailableError(
        f"No replica of {endpoint_id} answered; try again shortly", code="replicas_failed"
    )
