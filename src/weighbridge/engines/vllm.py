"""The production engine: `vllm serve`, one process per replica and version, spoken to over HTTP.

Flags and variables are those of vLLM 0.32 and 0.33. A version is never loaded into a running
process: with tied embeddings that gives wrong tokens without an error.
"""

import aiohttp

from weighbridge.engines import probe
from weighbridge.engines.base import (
    EngineCapabilities,
    EngineCommand,
    EngineLaunch,
    EngineLoad,
    EngineSettings,
    ProbeResult,
)
from weighbridge.errors import InvalidError

PROGRAM = ("vllm",)
TOKEN_VARIABLE = "VLLM_API_KEY"  # noqa: S105 - the name of a variable, not a secret
SHUTDOWN_TIMEOUT_S = 10
"""How long SIGTERM lets running requests finish; the gateway has drained the replica before."""
CHOICES_MAX = 128
OWN_FLAGS = frozenset(
    {
        "--api-key",
        "--host",
        "--model",
        "--port",
        "--served-model-name",
        "--shutdown-timeout",
        "--uds",
        "--disable-access-log-for-endpoints",
    }
)
"""What this adapter sets; the same in `extra_args` would undo it."""
SHARE_FLAGS = frozenset(
    {
        "--tensor-parallel-size",
        "-tp",
        "--pipeline-parallel-size",
        "-pp",
        "--distributed-executor-backend",
        "--data-parallel-size",
        "-dp",
        "--nnodes",
        "-n",
    }
)
"""What this adapter sets where the settings say how a model is shared."""
OWN_VARIABLES = frozenset({TOKEN_VARIABLE, "VLLM_SERVER_DEV_MODE"})
"""The second opens routes without authentication that run code (`/collective_rpc`)."""


class Vllm:
    """`settings.command` replaces the program, for a vLLM that is not on the PATH.

    `slots` and `threads` are not passed on: vLLM sizes its batches by the memory it finds
    (`--max-num-seqs` in `extra_args` bounds them).
    """

    name = "vllm"

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities:
        flags = _flags(settings)
        return EngineCapabilities(
            tools={"--enable-auto-tool-choice", "--tool-call-parser"} <= flags,
            reasoning="--reasoning-parser" in flags,
            min_tokens=True,
            choices_max=CHOICES_MAX,
        )

    def command(self, launch: EngineLaunch) -> EngineCommand:
        settings = launch.settings
        _check(settings)
        options = {
            "--served-model-name": launch.served_name,
            "--host": "{host}",
            "--port": "{port}",
            "--shutdown-timeout": str(SHUTDOWN_TIMEOUT_S),
            "--disable-access-log-for-endpoints": f"{probe.HEALTH_PATH},/metrics",
        }
        if settings.context_tokens is not None:
            options["--max-model-len"] = str(settings.context_tokens)
        if settings.dtype is not None:
            options["--dtype"] = settings.dtype
        options |= _shares(settings)
        words = [word for option in options.items() for word in option]
        return EngineCommand(
            argv=(*(settings.command or PROGRAM), "serve", "{model}", *words, *settings.extra_args),
            env={
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                **({"VLLM_HOST_IP": "{host}"} if settings.nodes > 1 else {}),
                **settings.env,
            },
            secrets={TOKEN_VARIABLE: launch.token},
        )

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        return await probe.probe(self._session, url, launch, generate=generate)

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        return await probe.load(
            self._session,
            url,
            launch,
            running="vllm:num_requests_running",
            waiting="vllm:num_requests_waiting",
        )


def _check(settings: EngineSettings) -> None:
    if taken := sorted(_flags(settings) & OWN_FLAGS):
        raise InvalidError(
            f"extra_args of vllm may not hold {', '.join(taken)}: weighbridge sets it"
        )
    if taken := sorted(settings.env.keys() & OWN_VARIABLES):
        raise InvalidError(f"env of vllm may not hold {', '.join(taken)}")


def _shares(settings: EngineSettings) -> dict[str, str]:
    """How many accelerators share the model, and how; its own Ray executor takes those of other nodes.

    By default each node holds one stage of the pipeline: the traffic within a stage is the heaviest. Raises
    InvalidError.
    """
    given = settings.tensor_parallel, settings.pipeline_parallel
    if settings.nodes == 1 and given == (None, None):
        return {}
    words = {word.split("=", 1)[0] for word in settings.extra_args}
    if taken := sorted((words | _flags(settings)) & SHARE_FLAGS):
        raise InvalidError(
            f"extra_args of vllm may not hold {', '.join(taken)} beside nodes, tensor_parallel and pipeline_parallel"
        )
    tensor = settings.tensor_parallel or max(1, settings.gpus)
    pipeline = settings.pipeline_parallel or settings.nodes
    have = settings.nodes * max(1, settings.gpus)
    if tensor * pipeline != have:
        raise InvalidError(
            f"tensor_parallel {tensor} × pipeline_parallel {pipeline} is not the {have} accelerators of a replica "
            f"(nodes {settings.nodes} × gpus {settings.gpus})",
            param="engine.tensor_parallel",
        )
    options = {"--tensor-parallel-size": str(tensor), "--pipeline-parallel-size": str(pipeline)}
    if settings.nodes > 1:
        _check_span(settings)
        options["--distributed-executor-backend"] = "ray"
    return options


def _check_span(settings: EngineSettings) -> None:
    if settings.gpus < 1:
        raise InvalidError(
            "a replica over several nodes needs gpus: how many on each", param="engine.gpus"
        )
    if settings.node_labels or settings.spread != "none":
        raise InvalidError(
            "vllm's executor chooses the other nodes of a replica by itself, so node_labels and spread can promise "
            "nothing where nodes is above 1; keep such replicas on a cluster of their own",
            param="engine.nodes",
        )


def _flags(settings: EngineSettings) -> frozenset[str]:
    """As vLLM reads them: to its parser `--api_key=x` is `--api-key x`."""
    words = (argument.split("=", 1)[0] for argument in settings.extra_args)
    return frozenset(word.replace("_", "-") for word in words if word.startswith("--"))
