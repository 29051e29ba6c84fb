"""Ask a replica one probe's question over HTTP, with the log-probabilities of what it says."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp

from weighbridge.acceptance.model import Answer, Probe, Token
from weighbridge.clock import monotonic_s

ANSWER_BYTES_MAX = 8 * 1024 * 1024
LINE_BYTES_MAX = 1024 * 1024
ALTERNATIVES = 20
"""How many of the likeliest tokens are asked for at each place."""
ASK_S = 60.0
IMPOSSIBLE = -100.0


@dataclass(frozen=True, slots=True)
class Target:
    """A replica as its runtime knows it; `token` opens its engine."""

    url: str
    model: str
    token: str = field(repr=False)


class AskError(Exception):
    """No answer to check; the message says why, for the operator."""


async def ask(
    session: aiohttp.ClientSession,
    target: Target,
    probe: Probe,
    *,
    logprobs: bool,
    monotonic: Callable[[], float] = monotonic_s,
) -> Answer:
    """Raises AskError when the replica gives no whole answer within ASK_S."""
    path = "/v1/completions" if probe.prompt is not None else "/v1/chat/completions"
    began_s = monotonic()
    first_s: float | None = None
    texts: list[str] = []
    tokens: list[Token] = []
    try:
        async with session.post(
            target.url + path,
            json=_body(target, probe, logprobs=logprobs),
            headers={"Authorization": f"Bearer {target.token}"},
            timeout=aiohttp.ClientTimeout(total=ASK_S),
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                raise AskError(f"it answered {response.status}")
            async for event in _events(response):
                text, found = _read(event)
                if text and first_s is None:
                    first_s = monotonic() - began_s
                texts.append(text)
                tokens += found
    except TimeoutError as error:
        raise AskError(f"no whole answer within {ASK_S:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise AskError(f"connection failed: {type(error).__name__}") from error
    total_s = monotonic() - began_s
    return Answer("".join(texts), tuple(tokens), total_s if first_s is None else first_s, total_s)


def _body(target: Target, probe: Probe, *, logprobs: bool) -> Mapping[str, object]:
    body: dict[str, object] = {
        "model": target.model,
        "max_tokens": probe.max_tokens,
        "temperature": probe.temperature,
        "top_p": probe.top_p,
        "seed": probe.seed,
        "stream": True,
    }
    if probe.prompt is not None:
        body["prompt"] = probe.prompt
        if logprobs:
            body["logprobs"] = ALTERNATIVES
        return body
    body["messages"] = [{"role": one.role, "content": one.content} for one in probe.messages]
    if logprobs:
        body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
    return body


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Mapping[str, object]]:
    """The JSON documents of the event stream up to [DONE]."""
    left, size_bytes = b"", 0
    async for chunk in response.content.iter_chunked(64 * 1024):
        size_bytes += len(chunk)
        *lines, left = (left + chunk).split(b"\n")
        if size_bytes > ANSWER_BYTES_MAX or len(left) > LINE_BYTES_MAX:
            raise AskError("the answer is too large")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip()
            if not line.startswith(b"data:"):
                continue
            if data == b"[DONE]":
                return
            try:
                document = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise AskError("the stream is not readable") from error
            if isinstance(document, dict):
                if "error" in document:
                    raise AskError("the stream ended with an error")
                yield document
    raise AskError("the stream broke off")


def _read(event: Mapping[str, object]) -> tuple[str, list[Token]]:
    """Text and tokens of one event, in the shapes of both kinds of completion."""
    match event:
        case {"choices": [{"delta": {"content": str(text)}, **rest}, *_]}:
            return text, _tokens(rest.get("logprobs"))
        case {"choices": [{"text": str(text), **rest}, *_]}:
            return text, _tokens(rest.get("logprobs"))
    return "", []


def _tokens(logprobs: object) -> list[Token]:
    match logprobs:
        case {"content": list(entries)}:
            return [
                Token(str(entry.get("token")), _number(entry.get("logprob")), _listed(entry))
                for entry in entries
                if isinstance(entry, dict)
            ]
        case {"tokens": list(texts), "token_logprobs": list(values), **rest}:
            tops = rest.get("top_logprobs")
            tops = tops if isinstance(tops, list) else [{}] * len(texts)
            return [
                Token(
                    str(text),
                    _number(value),
                    {str(k): _number(v) for k, v in top.items()} if isinstance(top, dict) else {},
                )
                for text, value, top in zip(texts, values, tops, strict=False)
            ]
    return []


def _listed(entry: Mapping[str, object]) -> Mapping[str, float]:
    top = entry.get("top_logprobs")
    if not isinstance(top, list):
        return {}
    return {
        str(one.get("token")): _number(one.get("logprob")) for one in top if isinstance(one, dict)
    }


def _number(value: object) -> float:
    """Some engines send null for what is impossible."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return IMPOSSIBLE
    try:
        return float(value)
    except OverflowError:
        return IMPOSSIBLE
