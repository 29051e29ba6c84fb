"""The engines this release can start, by name."""

from collections.abc import Mapping

import aiohttp

from weighbridge.engines.base import Engine
from weighbridge.engines.command import CommandEngine
from weighbridge.engines.llamacpp import LlamaCpp
from weighbridge.engines.vllm import Vllm


def engines(session: aiohttp.ClientSession, *python: str) -> Mapping[str, Engine]:
    """All of them; `session` asks their replicas and belongs to the caller.

    `python` runs those that are programs of ours; else this process's interpreter does.
    """
    known: tuple[Engine, ...] = (LlamaCpp(session, python), Vllm(session), CommandEngine(session))
    return {engine.name: engine for engine in known}
