"""Any other engine with an OpenAI-compatible server, started by a command that the operator writes.

The command is a list of words with `{model}`, `{host}`, `{port}` and `{served_name}` in them. The
engine must report `{served_name}` at /v1/models and should demand the token, which reaches it in
the environment: in WEIGHBRIDGE_ENGINE_TOKEN, and in each variable of `env` that holds `{token}`.
"""

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
from weighbridge.errors import InvalidError

TOKEN_PLACEHOLDER = "{token}"  # noqa: S105 - a placeholder, not a secret
NEEDED = ("{model}", "{host}", "{port}", "{served_name}")


class CommandEngine:
    name = "command"

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities:
        """What the flags promise; an engine that needs none for it is taken at its least."""
        words = {word.split("=", 1)[0] for word in (*settings.command, *settings.extra_args)}
        return EngineCapabilities(
            tools="--tool-call-parser" in words, reasoning="--reasoning-parser" in words
        )

    def command(self, launch: EngineLaunch) -> EngineCommand:
        template = (*launch.settings.command, *launch.settings.extra_args)
        _check(template, launch.settings)

        def fill(text: str) -> str:
            return text.replace("{served_name}", launch.served_name)

        env = {name: fill(value) for name, value in launch.settings.env.items()}
        secrets = {
            name: value.replace(TOKEN_PLACEHOLDER, launch.token)
            for name, value in env.items()
            if TOKEN_PLACEHOLDER in value
        }
        return EngineCommand(
            argv=tuple(fill(word) for word in template),
            env={name: value for name, value in env.items() if name not in secrets},
            secrets={TOKEN_VARIABLE: launch.token, **secrets},
        )

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        return await probe.probe(
            self._session,
            url,
            launch,
            generate=generate,
            health_path=launch.settings.health_path,
            loading_status=503,
        )

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        return None


def _check(template: tuple[str, ...], settings: EngineSettings) -> None:
    """Host and port must come from the node, and the name from us: else nothing could be proved."""
    check_one_node(settings, "command")
    if not settings.command:
        raise InvalidError("engine `command` needs settings.command, the words to start it with")
    text = " ".join((*template, *settings.env.values()))
    if missing := [placeholder for placeholder in NEEDED if placeholder not in text]:
        raise InvalidError(f"settings.command does not use {', '.join(missing)}")
    if any(TOKEN_PLACEHOLDER in word for word in template):
        raise InvalidError(
            f"settings.command may not hold {TOKEN_PLACEHOLDER}: every user of a machine can read "
            f"the arguments of a process. Put it into env, or read ${TOKEN_VARIABLE}."
        )
    if TOKEN_VARIABLE in settings.env:
        raise InvalidError(f"{TOKEN_VARIABLE} is set by weighbridge itself")
    if not settings.health_path.startswith("/"):
        raise InvalidError(f"health_path {settings.health_path!r} does not start with /")
