"""The client: one server, up to three keys, the resources as members. Synchronous."""

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx

from weighbridge.sdk.admin import Admin
from weighbridge.sdk.chat import Chat
from weighbridge.sdk.errors import ConfigurationError
from weighbridge.sdk.management.aliases import AliasCalls
from weighbridge.sdk.management.deployments import Deployments
from weighbridge.sdk.receipts.resource import Receipts
from weighbridge.sdk.resources import Caller, Endpoints, Models, Versions
from weighbridge.sdk.transport import RETRIES_MAX, TIMEOUT_S, Transport
from weighbridge.sdk.usage.reports import Usage

BASE_URL_DEFAULT = "http://127.0.0.1:8080"


class Client:
    """Talk to one server; close it, or use it as a context manager.

    What is not given is read from WEIGHBRIDGE_BASE_URL, WEIGHBRIDGE_API_KEY (a management key),
    WEIGHBRIDGE_ADMIN_KEY and WEIGHBRIDGE_INFERENCE_KEY. A key is missed only when a call needs it; a key of kind
    `both` may stand in `api_key` alone. One client may be used from several threads.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        admin_key: str | None = None,
        inference_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries_max: int = RETRIES_MAX,
        http_transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api_key = api_key or os.environ.get("WEIGHBRIDGE_API_KEY")
        self._admin_key = admin_key or os.environ.get("WEIGHBRIDGE_ADMIN_KEY")
        self._inference_key = inference_key or os.environ.get("WEIGHBRIDGE_INFERENCE_KEY")
        self._transport = Transport(
            base_url or os.environ.get("WEIGHBRIDGE_BASE_URL") or BASE_URL_DEFAULT,
            timeout_s=timeout_s,
            retries_max=retries_max,
            http_transport=http_transport,
            sleep=sleep,
        )
        management = Caller(self._transport, self._management)
        self.models = Models(management)
        self.versions = Versions(management)
        self.aliases = AliasCalls(management)
        self.endpoints = Endpoints(management)
        self.deployments = Deployments(management)
        self.receipts = Receipts(management)
        self.usage = Usage(management, "/management/v1/usage")
        self.admin = Admin(Caller(self._transport, self._administration))
        self.chat = Chat(self._transport, self._inference)

    @property
    def base_url(self) -> str:
        return self._transport.base_url

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _management(self) -> str:
        return _required(self._api_key, "a management key", "WEIGHBRIDGE_API_KEY")

    def _administration(self) -> str:
        return _required(self._admin_key, "an admin key", "WEIGHBRIDGE_ADMIN_KEY")

    def _inference(self) -> str:
        key = self._inference_key or self._api_key
        return _required(key, "an inference key", "WEIGHBRIDGE_INFERENCE_KEY")


def _required(key: str | None, what: str, variable: str) -> str:
    if not key:
        raise ConfigurationError(f"This call needs {what}: set {variable}.", code="key_missing")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"The key in {variable} has characters that no key has; was it copied whole?",
            code="key_malformed",
        )
    return key
