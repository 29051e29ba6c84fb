"""What new replicas are asked in a world, and the way on which the examiner asks them: answers without a socket."""

import json
from collections.abc import Mapping
from types import TracebackType

from aiohttp import ClientTimeout

from simulation.engines.machines import Engine, Machines
from simulation.engines.manners import ALIKE, Manner
from simulation.history.log import Log
from weighbridge.acceptance.model import Checks, Message, Probe

SUM = Probe("sum", prompt="2 + 2 =", checks=Checks(not_empty=True, contains="4"))
ECHO = Probe("echo", messages=(Message("user", "Say yes."),), checks=Checks(equals="yes"))
ANSWERS = {SUM.question: "it is 4", ECHO.question: "yes"}


class Lines:
    """The events of an answer, all in one piece."""

    def __init__(self, text: str) -> None:
        event = json.dumps({"choices": [{"text": text}]})
        self._left = [f"data: {event}\n\ndata: [DONE]\n\n".encode()]

    def iter_chunked(self, size_bytes: int) -> "Lines":
        return self

    def __aiter__(self) -> "Lines":
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class Response:
    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.content = Lines(text)


class Asking:
    """One question on its way to an address, as `async with session.post(…)` awaits it."""

    def __init__(
        self, session: "SimSession", url: str, body: Mapping[str, object], limit_s: float
    ) -> None:
        self._session = session
        self._url = url
        self._body = body
        self._limit_s = limit_s

    async def __aenter__(self) -> Response:
        return await self._session.answer(self._url, self._body, self._limit_s)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class SimSession:
    """What of aiohttp's session the examiner uses."""

    def __init__(self, machines: Machines, manners: Mapping[str, Manner], log: Log) -> None:
        self._machines = machines
        self._manners = manners
        self._log = log

    def post(
        self,
        url: str,
        *,
        json: Mapping[str, object],
        headers: Mapping[str, str],
        timeout: ClientTimeout,
        allow_redirects: bool,
    ) -> Asking:
        assert timeout.total is not None
        return Asking(self, url.split("/v1/", maxsplit=1)[0], json, timeout.total)

    async def answer(self, url: str, body: Mapping[str, object], limit_s: float) -> Response:
        """Raises as aiohttp would: OSError where nobody listens, TimeoutError where nobody answers."""
        machines = self._machines
        await machines.loop.pause(0.01 + 0.1 * machines.chance.random())
        engine = machines.at(url)
        if engine is None or engine.fate is None:
            raise ConnectionRefusedError(url)
        if engine.fate.hangs or engine.fate.no_token:
            await machines.loop.pause(limit_s)
            raise TimeoutError
        if engine.spec.argv[1] != body["model"]:
            return Response(404, "")
        if not machines.serves(engine):
            return Response(503, "")
        question = _question(body)
        text = self._said(engine, question)
        self._log.add(
            "examined",
            replica=engine.spec.name,
            question=question,
            right=text == ANSWERS[question],
        )
        return Response(200, text)

    def _said(self, engine: Engine, question: str) -> str:
        manner = self._manners.get(engine.spec.weights.digest, ALIKE)
        return "no idea" if manner.fails_exam else ANSWERS[question]


def _question(body: Mapping[str, object]) -> str:
    match body:
        case {"prompt": str(prompt)}:
            return prompt
        case {"messages": [*_, {"content": str(content)}]}:
            return content
        case _:
            raise AssertionError(body)
