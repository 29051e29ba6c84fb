"""What each adapter starts, and what it refuses to start."""

from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from weighbridge.engines.base import (
    TOKEN_VARIABLE,
    EngineLaunch,
    EngineSettings,
    find_engine,
    served_name,
)
from weighbridge.engines.catalog import engines
from weighbridge.errors import InvalidError

TOKEN = "the-token-of-this-launch"
SGLANG = (
    "python",
    "-m",
    "sglang.launch_server",
    "--model-path={model}",
    "--served-model-name={served_name}",
    "--host={host}",
    "--port={port}",
)


@pytest.fixture
async def known() -> AsyncIterator[dict]:
    async with aiohttp.ClientSession() as session:
        yield dict(engines(session))


def launch(**settings: object) -> EngineLaunch:
    return EngineLaunch(
        replica_id="rep1",
        digest="ab" * 32,
        served_name=served_name("rep1", "ab" * 32),
        token=TOKEN,
        settings=EngineSettings(**settings),
        cache_dir="/var/cache/weighbridge",
    )


def value_of(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


async def test_the_catalog_knows_its_engines_by_name(known):
    assert known.keys() == {"llamacpp", "vllm", "command"}
    assert find_engine(known, "vllm").name == "vllm"
    with pytest.raises(
        InvalidError, match="no engine 'tgi' here; there are: command, llamacpp, vllm"
    ):
        find_engine(known, "tgi")


@pytest.mark.parametrize(
    ("engine", "settings"),
    [
        ("llamacpp", {}),
        ("vllm", {}),
        ("command", {"command": SGLANG, "env": {"API_KEY": "{token}", "A": "Bearer {token}"}}),
    ],
)
async def test_the_token_is_a_secret_and_nothing_else(known, engine, settings):
    command = known[engine].command(launch(**settings))
    assert TOKEN not in " ".join((*command.argv, *command.env.values()))
    assert TOKEN in command.secrets.values()
    assert not command.secrets.keys() & command.env.keys()
    assert TOKEN not in repr(command.argv)


async def test_llamacpp_serves_one_digest_under_one_name(known):
    argv = known["llamacpp"].command(launch(slots=2, threads=3, context_tokens=512)).argv
    assert value_of(argv, "--digest") == "ab" * 32
    assert value_of(argv, "--served-name") == "rep1." + "ab" * 16
    assert (value_of(argv, "--slots"), value_of(argv, "--threads")) == ("2", "3")
    assert value_of(argv, "--context") == "512"
    assert [value_of(argv, flag) for flag in ("--model", "--host", "--port")] == [
        "{model}",
        "{host}",
        "{port}",
    ]


async def test_llamacpp_computes_on_as_many_threads_as_it_was_given(known):
    assert known["llamacpp"].command(launch()).env["OMP_NUM_THREADS"] == "1"
    assert known["llamacpp"].command(launch(threads=4)).env["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    "settings",
    [
        {"extra_args": ("--x",)},
        {"command": ("other",)},
        {"dtype": "int4"},
        {"slots": 0},
        {"threads": 0},
        {"context_tokens": 0},
        {"env": {TOKEN_VARIABLE: "x"}},
    ],
)
async def test_llamacpp_refuses_settings_it_cannot_honour(known, settings):
    with pytest.raises(InvalidError):
        known["llamacpp"].command(launch(**settings))


async def test_vllm_is_started_as_one_process_per_version(known):
    settings = {
        "context_tokens": 8192,
        "dtype": "bfloat16",
        "extra_args": ("--gpu-memory-utilization", "0.9"),
        "env": {"CUDA_VISIBLE_DEVICES": "1"},
    }
    command = known["vllm"].command(launch(**settings))
    assert command.argv[:3] == ("vllm", "serve", "{model}")
    assert value_of(command.argv, "--served-model-name") == "rep1." + "ab" * 16
    assert value_of(command.argv, "--max-model-len") == "8192"
    assert value_of(command.argv, "--dtype") == "bfloat16"
    assert int(value_of(command.argv, "--shutdown-timeout")) > 0
    assert command.argv[-2:] == ("--gpu-memory-utilization", "0.9")
    assert command.env == {
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    assert command.secrets == {"VLLM_API_KEY": TOKEN}


async def test_vllm_over_several_nodes_is_left_to_its_own_ray_executor(known):
    command = known["vllm"].command(launch(nodes=2, gpus=8))
    assert value_of(command.argv, "--tensor-parallel-size") == "8"
    assert value_of(command.argv, "--pipeline-parallel-size") == "2"
    assert value_of(command.argv, "--distributed-executor-backend") == "ray"
    assert command.env["VLLM_HOST_IP"] == "{host}"
    other = known["vllm"].command(launch(nodes=2, gpus=4, tensor_parallel=2, pipeline_parallel=4))
    assert value_of(other.argv, "--tensor-parallel-size") == "2"
    assert value_of(other.argv, "--pipeline-parallel-size") == "4"


async def test_vllm_on_one_node_is_told_how_its_accelerators_share_the_model_if_that_is_set(known):
    argv = known["vllm"].command(launch(gpus=4, tensor_parallel=4)).argv
    assert value_of(argv, "--tensor-parallel-size") == "4"
    assert "--distributed-executor-backend" not in argv
    plain = known["vllm"].command(launch(gpus=4, extra_args=("-tp", "4"))).argv
    assert "--tensor-parallel-size" not in plain


@pytest.mark.parametrize(
    ("engine", "settings", "words"),
    [
        ("vllm", {"nodes": 2}, "needs gpus"),
        ("vllm", {"nodes": 2, "gpus": 4, "tensor_parallel": 4, "pipeline_parallel": 4}, "is not"),
        ("vllm", {"gpus": 4, "tensor_parallel": 2}, "is not the 4 accelerators"),
        ("vllm", {"nodes": 2, "gpus": 1, "spread": "strict"}, "node_labels and spread"),
        ("vllm", {"nodes": 2, "gpus": 1, "node_labels": {"a": "b"}}, "node_labels and spread"),
        ("vllm", {"nodes": 2, "gpus": 1, "extra_args": ("-pp", "2")}, "may not hold -pp"),
        ("vllm", {"nodes": 2, "gpus": 1, "extra_args": ("--tensor_parallel_size=2",)}, "tensor"),
        ("llamacpp", {"nodes": 2}, "runs on one node"),
        ("llamacpp", {"tensor_parallel": 2}, "takes neither"),
        ("command", {"nodes": 2, "command": SGLANG}, "runs on one node"),
    ],
)
async def test_several_nodes_are_refused_where_they_cannot_be_honoured(
    known, engine, settings, words
):
    with pytest.raises(InvalidError, match=words):
        known[engine].command(launch(**settings))


async def test_vllm_may_be_another_program(known):
    argv = known["vllm"].command(launch(command=("/opt/vllm/bin/vllm",))).argv
    assert argv[:2] == ("/opt/vllm/bin/vllm", "serve")


@pytest.mark.parametrize(
    "settings",
    [
        {"extra_args": ("--api-key", "x")},
        {"extra_args": ("--api-key=x",)},
        {"extra_args": ("--served-model-name", "other")},
        {"extra_args": ("--host=0.0.0.0",)},
        {"extra_args": ("--served_model_name", "other")},
        {"extra_args": ("--api_key=x",)},
        {"env": {"VLLM_API_KEY": "x"}},
        {"env": {"VLLM_SERVER_DEV_MODE": "1"}},
    ],
)
async def test_vllm_refuses_to_undo_what_protects_it(known, settings):
    with pytest.raises(InvalidError):
        known["vllm"].command(launch(**settings))


async def test_a_command_gets_our_name_and_leaves_the_node_its_placeholders(known):
    settings = {
        "command": SGLANG,
        "extra_args": ("--tp", "2"),
        "env": {"API_KEY": "{token}", "NAME": "{served_name}"},
    }
    command = known["command"].command(launch(**settings))
    assert "--served-model-name=rep1." + "ab" * 16 in command.argv
    assert {"--model-path={model}", "--host={host}", "--port={port}"} <= set(command.argv)
    assert command.argv[-2:] == ("--tp", "2")
    assert command.env == {"NAME": "rep1." + "ab" * 16}
    assert command.secrets == {"API_KEY": TOKEN, TOKEN_VARIABLE: TOKEN}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "needs settings.command"),
        ({"command": SGLANG[:-1]}, r"does not use \{port\}"),
        ({"command": (*SGLANG, "--api-key={token}")}, "every user of a machine can read"),
        ({"command": SGLANG, "env": {TOKEN_VARIABLE: "x"}}, "set by weighbridge"),
        ({"command": SGLANG, "health_path": "health"}, "does not start with /"),
    ],
)
async def test_a_command_that_could_not_be_proved_is_refused(known, settings, says):
    with pytest.raises(InvalidError, match=says):
        known["command"].command(launch(**settings))


@pytest.mark.parametrize(
    ("engine", "extra_args", "tools", "reasoning"),
    [
        ("vllm", (), False, False),
        ("vllm", ("--enable-auto-tool-choice",), False, False),
        ("vllm", ("--enable-auto-tool-choice", "--tool-call-parser=hermes"), True, False),
        ("vllm", ("--reasoning-parser", "qwen3"), False, True),
        ("vllm", ("--reasoning_parser=qwen3",), False, True),
        ("command", (), False, False),
        ("command", ("--tool-call-parser", "qwen25"), True, False),
        ("llamacpp", (), True, False),
    ],
)
async def test_capabilities_follow_from_the_settings(known, engine, extra_args, tools, reasoning):
    settings = replace(EngineSettings(), extra_args=extra_args)
    found = known[engine].capabilities(settings)
    assert (found.tools, found.reasoning) == (tools, reasoning)
    assert found.choices_max >= 1


async def test_only_vllm_can_be_held_to_a_least_number_of_tokens(known):
    can = {name: engine.capabilities(EngineSettings()).min_tokens for name, engine in known.items()}
    assert can == {"llamacpp": False, "vllm": True, "command": False}
