"""The engines this release can start, by name."""

from collections.abc import Mapping

import aiohttp

from weighbridge.engines.base import Engine
from weighbridge.engines.command import CommandEngine
from weighbridge.engines.llamacpp import LlamaCpp
from weighbridge.engines.vllm import Vllm


def engines(session: aiohttp.ClientSession) -> Mapping[str, Engine]:
    """All of them; `session` asks their replicas and belongs to the caller."""
    known: tuple[Engine, ...] = (LlamaCpp(session), Vllm(session), CommandEngine(session))
    return {engine.name: engine for engine in known}
