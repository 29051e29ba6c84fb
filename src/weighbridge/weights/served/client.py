"""The weight server as a node reads it: manifests, and ranges of blobs, over connections that are kept."""

import errno
import http.client
import json
import random
import ssl
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from weighbridge.errors import InvalidError, NotFoundError, UnauthenticatedError
from weighbridge.weights.manifest import Manifest
from weighbridge.weights.node.source import Check, StoppedError

TIMEOUT_S = 30.0
ATTEMPTS_MAX = 5
"""Of one range, or of the manifest, before whoever asked is told."""
PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 2.0
MANIFEST_BYTES_MAX = 4 * 1024 * 1024
REFUSAL_BYTES_MAX = 64 * 1024
PIECE_BYTES = 1024 * 1024

Result = TypeVar("Result")


class ServerAwayError(OSError):
    """Neither bytes nor a refusal came; asking again later is right."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(errno.EIO, f"the weight server at {url} does not answer: {reason}")


class ServedBlobs:
    """What `token` opens at `url`. `close` it when nothing is asked any more."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidError(f"{url!r} is no weight server's URL.", code="weights_url")
        self._url = url
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.netloc
        self._prefix = parts.path.rstrip("/")
        self._token = token
        self._version = ""
        self._idle: list[http.client.HTTPConnection] = []

    def manifest(self, digest: str) -> Manifest:
        self._version = digest

        def read(answer: http.client.HTTPResponse) -> Manifest:
            content = answer.read(MANIFEST_BYTES_MAX + 1)
            if answer.length or len(content) > MANIFEST_BYTES_MAX:
                raise ServerAwayError(self._url, f"a manifest of {len(content)} bytes or more")
            return Manifest.decode(content)

        return self._ask(f"/v1/versions/{digest}/manifest", {}, 200, read, lambda: None)

    def read_into(self, digest: str, start: int, target: memoryview, check: Check) -> None:
        wanted = f"bytes={start}-{start + len(target) - 1}"

        def read(answer: http.client.HTTPResponse) -> None:
            at = 0
            while at < len(target):
                check()
                count = answer.readinto(target[at : at + PIECE_BYTES])
                if count == 0:
                    raise ServerAwayError(self._url, f"{at} bytes instead of {len(target)}")
                at += count

        if len(target) > 0:
            path = f"/v1/versions/{self._version}/blobs/{digest}"
            self._ask(path, {"Range": wanted}, 206, read, check)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _ask(
        self,
        path: str,
        headers: dict[str, str],
        status: int,
        read: Callable[[http.client.HTTPResponse], Result],
        check: Check,
    ) -> Result:
        pause_s = PAUSE_MIN_S
        for attempt in range(1, ATTEMPTS_MAX + 1):
            check()
            try:
                return self._ask_once(path, headers, status, read)
            except StoppedError:
                raise
            except (OSError, http.client.HTTPException) as error:
                if attempt == ATTEMPTS_MAX:
                    raise _away(self._url, error) from error
            # Nodes that a server has lost at one moment do not come back at one moment.
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause_s = min(PAUSE_MAX_S, pause_s * 2)
        raise AssertionError

    def _ask_once(
        self,
        path: str,
        headers: dict[str, str],
        status: int,
        read: Callable[[http.client.HTTPResponse], Result],
    ) -> Result:
        connection = self._idle.pop() if self._idle else self._connect()
        try:
            connection.request(
                "GET",
                f"{self._prefix}{path}",
                headers={"Authorization": f"Bearer {self._token}", **headers},
            )
            answer = connection.getresponse()
            if answer.status != status:
                self._raise_refusal(answer)
            result = read(answer)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return result

    def _raise_refusal(self, answer: http.client.HTTPResponse) -> None:
        status, content = answer.status, answer.read(REFUSAL_BYTES_MAX)
        try:
            document = json.loads(content)
            code, message = str(document["code"]), str(document["message"])
        except (ValueError, KeyError, TypeError):
            code, message = "", f"status {status}"
        match status:
            case 401:
                raise UnauthenticatedError(message, code=code)
            case 404:
                raise NotFoundError(message, code=code or "weights_missing")
            case _:
                raise ServerAwayError(self._url, message)

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(self._host, timeout=TIMEOUT_S, context=self._tls)


def _away(url: str, error: Exception) -> ServerAwayError:
    if isinstance(error, ServerAwayError):
        return error
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ServerAwayError(url, reason)
