"""Questions every engine answers over HTTP: who is it, does it generate, how busy is it."""

import json
from collections.abc import Mapping, Sequence

import aiohttp

from weighbridge.engines.base import EngineLaunch, EngineLoad, ProbeOutcome, ProbeResult

HEALTH_TIMEOUT_S = 5.0
GENERATE_TIMEOUT_S = 60.0
"""A first token may wait for kernels to compile and for requests that came before."""
BODY_BYTES_MAX = 4 * 1024 * 1024
PROMPT = "Hello"
HEALTH_PATH = "/health"


class _ProbeError(Exception):
    """An answer that settles the probe; `result` is what it says."""

    def __init__(self, outcome: ProbeOutcome, detail: str) -> None:
        super().__init__(detail)
        self.result = ProbeResult(outcome, detail)


async def probe(
    session: aiohttp.ClientSession,
    url: str,
    launch: EngineLaunch,
    *,
    generate: bool,
    health_path: str = HEALTH_PATH,
    loading_status: int | None = None,
) -> ProbeResult:
    """READY only when the engine is healthy, demands our token and reports our `served_name` (R15).

    `loading_status` is the health status that means "still loading" rather than "broken". Nobody
    listening counts as STARTING too: whether it ought to be up by now is the caller's to know.
    """
    try:
        await _check_health(session, url + health_path, loading_status)
        await _check_identity(session, url, launch)
        if generate:
            await _check_token(session, url, launch)
    except _ProbeError as settled:
        return settled.result
    except aiohttp.ClientConnectorError as error:
        return ProbeResult(ProbeOutcome.STARTING, f"nobody listens: {error.os_error.strerror}")
    except TimeoutError:
        return ProbeResult(ProbeOutcome.UNHEALTHY, "no answer in time")
    except (aiohttp.ClientError, OSError) as error:
        return ProbeResult(ProbeOutcome.UNHEALTHY, f"connection failed: {type(error).__name__}")
    return ProbeResult(ProbeOutcome.READY)


async def load(
    session: aiohttp.ClientSession, url: str, launch: EngineLaunch, *, running: str, waiting: str
) -> EngineLoad | None:
    """Two gauges of the engine's /metrics, summed over their labels; None when it does not say."""
    try:
        status, body = await _get(session, f"{url}/metrics", launch)
    except (aiohttp.ClientError, TimeoutError, OSError, _ProbeError):
        return None
    if status != 200:
        return None
    gauges = parse_gauges(body.decode(errors="replace"), (running, waiting))
    if gauges.keys() != {running, waiting}:
        return None
    return EngineLoad(int(gauges[running]), int(gauges[waiting]))


def parse_gauges(text: str, names: Sequence[str]) -> Mapping[str, float]:
    """The named samples of a Prometheus text, each summed over its labels; absent ones left out."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name = line.split("{", 1)[0].split(" ", 1)[0]
        if name not in names:
            continue
        try:
            value = float(line.rsplit("}", 1)[-1].removeprefix(name).split()[0])
        except (ValueError, IndexError):
            continue
        sums[name] = sums.get(name, 0.0) + value
    return sums


async def _check_health(
    session: aiohttp.ClientSession, url: str, loading_status: int | None
) -> None:
    timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
    async with session.get(url, timeout=timeout, allow_redirects=False) as answer:
        if answer.status == loading_status:
            raise _ProbeError(ProbeOutcome.STARTING, "the model is loading")
        if answer.status != 200:
            raise _ProbeError(ProbeOutcome.UNHEALTHY, f"health answers {answer.status}")


async def _check_identity(session: aiohttp.ClientSession, url: str, launch: EngineLaunch) -> None:
    status, body = await _get(session, f"{url}/v1/models", launch)
    _refuse_strangers(status, "the list of models")
    match _json(body):
        case {"data": [{"id": str(found)}]} if found == launch.served_name:
            return
        case {"data": list(models)}:
            names = [model.get("id") if isinstance(model, dict) else model for model in models]
            raise _ProbeError(ProbeOutcome.WRONG_IDENTITY, f"it serves {names[:5]!r}")
        case _:
            raise _ProbeError(ProbeOutcome.UNHEALTHY, "the list of models is not readable")


async def _check_token(session: aiohttp.ClientSession, url: str, launch: EngineLaunch) -> None:
    question = {"model": launch.served_name, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    async with session.post(
        f"{url}/v1/completions",
        json=question,
        headers=_authorization(launch),
        timeout=aiohttp.ClientTimeout(total=GENERATE_TIMEOUT_S),
        allow_redirects=False,
    ) as answer:
        status, body = answer.status, await _body(answer)
    _refuse_strangers(status, "a completion")
    match _json(body):
        case {"model": str(found), "choices": [{"text": str()}, *_]}:
            if found != launch.served_name:
                raise _ProbeError(ProbeOutcome.WRONG_IDENTITY, f"{found!r} answered")
        case _:
            raise _ProbeError(ProbeOutcome.UNHEALTHY, "the completion is not readable")


def _refuse_strangers(status: int, what: str) -> None:
    if status in {401, 403}:
        raise _ProbeError(ProbeOutcome.WRONG_IDENTITY, f"{what}: our token is refused ({status})")
    if status != 200:
        raise _ProbeError(ProbeOutcome.UNHEALTHY, f"{what} answers {status}")


async def _get(session: aiohttp.ClientSession, url: str, launch: EngineLaunch) -> tuple[int, bytes]:
    async with session.get(
        url,
        headers=_authorization(launch),
        timeout=aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S),
        allow_redirects=False,
    ) as answer:
        return answer.status, await _body(answer)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise _ProbeError(ProbeOutcome.UNHEALTHY, f"an answer over {BODY_BYTES_MAX} bytes")
    return bytes(body)


def _json(body: bytes) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value


def _authorization(launch: EngineLaunch) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {launch.token}"}
