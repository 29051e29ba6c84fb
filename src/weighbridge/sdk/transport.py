"""Sending one request and reading its answer, with the retries that are safe; no word of the API."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from json import JSONDecodeError, loads

import httpx

from weighbridge.sdk.errors import (
    AnswerError,
    ConfigurationError,
    ConnectionFailedError,
    StatusError,
    status_error,
)

RETRIES_MAX = 2
RETRY_FIRST_S = 0.5
RETRY_LAST_S = 8.0
RETRY_AFTER_MAX_S = 60.0
"""A server that asks for a longer pause is answered with its error at once."""

TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

Json = Mapping[str, object]


class Transport:
    """Owns the connections to one server. `http_transport` replaces the network, as in tests."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries_max: int = RETRIES_MAX,
        http_transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"The base URL {base_url!r} is not usable; it reads http://host:port."
            )
        self.base_url = base_url.rstrip("/")
        self._retries_max = retries_max
        self._sleep = sleep
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            transport=http_transport,
            headers={"user-agent": f"weighbridge-python/{_version()}"},
            follow_redirects=False,
        )

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str,
        body: Json | None = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
        idempotency_key: str | None = None,
        repeatable: bool = True,
    ) -> object:
        """The decoded JSON of the answer; raises ClientError.

        What is not `repeatable` is sent again only when it certainly was not carried out: no connection came
        about, the server was too busy (429), or it says so itself (`x-should-retry: true`).
        """
        request = self._http.build_request(
            method,
            self.base_url + path,
            headers=_authorization(key) | _idempotency(idempotency_key),
            json=body,
            params=query,
        )
        for attempt in range(self._retries_max + 1):
            error: ConnectionFailedError | StatusError
            try:
                status, headers, content = self._once(request, f"{method} {path}")
            except ConnectionFailedError as failure:
                error = failure
                delay_s = backoff_s(attempt) if repeatable or not failure.sent else None
            else:
                if status < 400:
                    return _decoded(content, f"{method} {path}")
                error = status_error(status, _lenient(content), asked=f"{method} {path}")
                delay_s = retry_delay_s(attempt, status, headers, repeatable=repeatable)
            if delay_s is None or attempt == self._retries_max:
                raise error
            self._sleep(delay_s)
        raise AssertionError("retries_max is at least 0")

    @contextmanager
    def stream(self, path: str, *, key: str, body: Json) -> Iterator[Iterator[str]]:
        """The lines of a streamed POST, as they come; never repeated."""
        request = self._http.build_request(
            "POST", self.base_url + path, headers=_authorization(key), json=body
        )
        try:
            response = self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        try:
            if response.status_code >= 400:
                content = _limited(response, f"POST {path}")
                raise status_error(response.status_code, _lenient(content), asked=f"POST {path}")
            yield self._lines(response)
        finally:
            response.close()

    def _once(self, request: httpx.Request, asked: str) -> tuple[int, httpx.Headers, bytes]:
        try:
            response = self._http.send(request, stream=True)
            try:
                content = _limited(response, asked)
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        return response.status_code, response.headers, content

    def _lines(self, response: httpx.Response) -> Iterator[str]:
        try:
            yield from response.iter_lines()
        except httpx.HTTPError as error:
            raise self._failed(error) from error

    def _failed(self, error: httpx.HTTPError) -> ConnectionFailedError:
        what = "did not answer in time" if isinstance(error, httpx.TimeoutException) else "failed"
        reason = str(error) or type(error).__name__
        return ConnectionFailedError(
            f"The connection to {self.base_url} {what}: {reason}",
            sent=not isinstance(error, _NOT_SENT),
        )


def retry_delay_s(
    attempt: int, status: int, headers: Mapping[str, str], *, repeatable: bool
) -> float | None:
    """Seconds to wait before the next try, None when there is to be none.

    As the hosted API's own clients do (wire.md §3.6), except that a 409 is final unless the server says
    otherwise: here it tells of a taken alias or a version in use, which no waiting changes.
    """
    wish = headers.get("x-should-retry")
    if wish == "false":
        return None
    transient = status == 429 or (repeatable and (status == 408 or status >= 500))
    if wish != "true" and not transient:
        return None
    asked_s = _retry_after_s(headers)
    if asked_s is None:
        return backoff_s(attempt)
    return asked_s if asked_s <= RETRY_AFTER_MAX_S else None


def backoff_s(attempt: int) -> float:
    """0.5 s, 1 s, 2 s … 8 s, each shortened by up to a quarter so that clients do not come back together."""
    return min(RETRY_FIRST_S * 2.0**attempt, RETRY_LAST_S) * (1 - 0.25 * random.random())  # noqa: S311 (spread, not secrecy)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    try:
        if (value := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(value) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.replace(".", "", 1).isdecimal():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _limited(response: httpx.Response, asked: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > ANSWER_BYTES_MAX:
            raise AnswerError(f"{asked}: the answer is longer than {ANSWER_BYTES_MAX} bytes.")
    return bytes(content)


def _decoded(content: bytes, asked: str) -> object:
    try:
        body: object = loads(content)
    except (JSONDecodeError, UnicodeDecodeError) as error:
        raise AnswerError(
            f"{asked}: the answer is not JSON; is the base URL that of a server?"
        ) from error
    return body


def _lenient(content: bytes) -> object:
    try:
        body: object = loads(content)
    except (JSONDecodeError, UnicodeDecodeError):
        return None
    return body


def _authorization(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _idempotency(key: str | None) -> dict[str, str]:
    return {} if key is None else {"idempotency-key": key}


def _version() -> str:
    try:
        return version("weighbridge")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"
