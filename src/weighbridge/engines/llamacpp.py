"""The embedded engine: llama.cpp in a process of ours, on CPU, from safetensors."""

import sys
from collections.abc import Sequence

import aiohttp

from weighbridge.engines import probe
from weighbridge.engines.base import (
    TOKEN_VARIABLE,
    EngineCapabilities,
    EngineCommand,
    EngineLaunch,
    EngineLoad,
    EngineSettings,
    ProbeResult,
    check_one_node,
)
from weighbridge.engines.gguf.cache import DTYPES
from weighbridge.errors import InvalidError

SERVER_MODULE = "weighbridge.engines.llamacpp_server"
LOADING_STATUS = 503
"""llama.cpp listens before its weights are loaded and says so in this way."""


class LlamaCpp:
    """`python` must be able to import weighbridge on the node that runs the replica."""

    name = "llamacpp"

    def __init__(self, session: aiohttp.ClientSession, python: Sequence[str] = ()) -> None:
        self._session = session
        self._python = tuple(python) or (sys.executable,)

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities:
        # With n > 1 llama.cpp reports the usage of one choice only, so nobody could count the rest.
        return EngineCapabilities(tools=True, choices_max=1)

    def command(self, launch: EngineLaunch) -> EngineCommand:
        settings = launch.settings
        _check(settings)
        options = {
            "--model": "{model}",
            "--host": "{host}",
            "--port": "{port}",
            "--digest": launch.digest,
            "--served-name": launch.served_name,
            "--slots": str(settings.slots),
            "--threads": str(settings.threads),
            "--dtype": settings.dtype or DTYPES[0],
            "--cache-dir": launch.cache_dir,
        }
        if settings.context_tokens is not None:
            options["--context"] = str(settings.context_tokens)
        words = [word for option in options.items() for word in option]
        return EngineCommand(
            argv=(*self._python, "-m", SERVER_MODULE, *words),
            # More threads than cores between replicas collapse: measured 27 against 1.5 tokens/s.
            env={"OMP_NUM_THREADS": str(settings.threads), **settings.env},
            secrets={TOKEN_VARIABLE: launch.token},
        )

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        return await probe.probe(
            self._session, url, launch, generate=generate, loading_status=LOADING_STATUS
        )

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        return await probe.load(
            self._session,
            url,
            launch,
            running="llamacpp:requests_processing",
            waiting="llamacpp:requests_deferred",
        )


def _check(settings: EngineSettings) -> None:
    if settings.extra_args or settings.command:
        raise InvalidError("llamacpp takes no extra_args and no command; its settings are fields")
    check_one_node(settings, "llamacpp")
    if settings.dtype not in {None, *DTYPES}:
        raise InvalidError(
            f"dtype {settings.dtype!r} is not supported by llamacpp: use {' or '.join(DTYPES)}"
        )
    if TOKEN_VARIABLE in settings.env:
        raise InvalidError(f"{TOKEN_VARIABLE} is set by weighbridge itself")
    for name, value in (
        ("slots", settings.slots),
        ("threads", settings.threads),
        ("context_tokens", settings.context_tokens),
    ):
        if value is not None and value < 1:
            raise InvalidError(f"{name} is {value}, expected at least 1")
