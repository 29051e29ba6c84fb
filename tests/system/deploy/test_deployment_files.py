"""The examples under deploy/: valid for the programs they are for, with commands and settings that there are."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import typer.main
import yaml
from installation import ENDPOINT, LONG_QUESTION, Installation, until
from proxies import DEPLOY, Proxy, haproxy, needs, nginx

from weighbridge.cli.main import program
from weighbridge.settings import Settings

pytestmark = pytest.mark.system

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SETTING = re.compile(r"\bWEIGHBRIDGE_([A-Z0-9_]+)\b")
SLOW_S = 20.0


def assert_command(words: list[str]) -> None:
    """The words are a command of ours with options that it has."""
    command = typer.main.get_command(program())
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert command.name != "weighbridge", words
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_that_there_is(unit: Path) -> None:
    starts = re.findall(r"^ExecStart=(\S+) (.*)$", unit.read_text(), re.MULTILINE)
    assert len(starts) == 1
    path, arguments = starts[0]
    assert path == "/opt/weighbridge/bin/weighbridge"
    assert_command(arguments.replace("%i", "1").split())


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_started_again_for_as_long_as_that_may_help(unit: Path) -> None:
    """However quick it ends; but not after an error of set-up."""
    lines = unit.read_text().splitlines()
    assert {"Restart=always", "Restart=on-failure"} & set(lines)
    assert {"StartLimitIntervalSec=0", "RestartPreventExitStatus=78"} <= set(lines)


def test_the_units_together_are_valid(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/weighbridge/bin/weighbridge", shutil.which("true"))
        (tmp_path / unit.name).write_text(text)
    names = [str(path) for path in tmp_path.iterdir() if path.suffix in (".service", ".target")]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *names],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "file",
    [
        "compose.yaml",
        "compose.gateways.yaml",
        "systemd/weighbridge.env",
        "systemd/gateway-host.env",
        "haproxy.cfg",
        "nginx.conf",
    ],
)
def test_each_setting_that_is_named_is_one(file: str) -> None:
    named = {name.lower() for name in SETTING.findall((DEPLOY / file).read_text())}
    assert named <= set(Settings.model_fields)


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gateways.yaml"]])
def test_the_composition_has_commands_of_ours_and_files_that_are_there(files: list[str]) -> None:
    documents = [yaml.safe_load((DEPLOY / name).read_text()) for name in files]
    # As compose lays one file over the other, as far as it matters here.
    services = {name: {} for document in documents for name in document["services"]}
    for document in documents:
        for name, service in document["services"].items():
            services[name] |= {k: v for k, v in service.items() if k not in services[name]}
    commands = [service["command"] for service in services.values() if "command" in service]
    assert len(commands) == (1 if len(files) == 1 else 3)
    for command in commands:
        assert_command(list(command))
    build = services["weighbridge"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert (DEPLOY / build["context"] / "constraints.txt").is_file()
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    sources = [m["source"] if isinstance(m, dict) else m.partition(":")[0] for m in mounts]
    local = [name for name in sources if name.startswith(".")]
    assert local
    assert all((DEPLOY / name).is_file() for name in local)
    declared = {name for document in documents for name in document["volumes"]}
    assert {name for name in sources if name.replace("-", "").isalnum()} == declared
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
    # The proxy asks one name, which each gateway answers to.
    asked = re.findall(r"server (\S+):8080", (DEPLOY / "nginx.conf").read_text())
    aliases = [s["networks"]["default"]["aliases"] for s in services.values() if "networks" in s]
    assert aliases == [asked] * len(commands)


@pytest.fixture(params=[nginx, haproxy], ids=["nginx", "haproxy"])
def proxy(
    request: pytest.FixtureRequest,
    shared_site: Installation,
    make_public_directory: Callable[[], Path],
) -> Iterator[Proxy]:
    with request.param(make_public_directory(), [shared_site]) as made:
        yield made


def test_a_proxy_passes_streams_on_as_they_come_and_cuts_who_sends_slowly(
    proxy: Proxy, shared_site: Installation
) -> None:
    slow = slow_sender(proxy)
    began_s = time.monotonic()
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    headers = {"authorization": f"Bearer {shared_site.inference_key}"}
    body = {
        "model": ENDPOINT,
        "messages": [{"role": "user", "content": LONG_QUESTION}],
        "stream": True,
    }
    with httpx.Client(verify=context, base_url=proxy.url, headers=headers, timeout=30) as client:
        until(lambda: client.get("/v1/models").status_code == 200, 20, "the gateway behind it")
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            pieces = list(answer.iter_raw())
        assert b"".join(pieces).rstrip().endswith(b"data: [DONE]")
        assert len(pieces) > 3
    assert http_version(proxy) == "2"
    slow.settimeout(SLOW_S)
    left = b""
    while chunk := slow.recv(4096):
        left += chunk
    slow.close()
    assert time.monotonic() - began_s < SLOW_S
    assert left == b"" or b" 408 " in left.split(b"\r\n", 1)[0]


def slow_sender(proxy: Proxy) -> ssl.SSLSocket:
    """It has sent the beginning of a head, and nothing more comes."""
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    raw = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    secure = context.wrap_socket(raw, server_hostname="127.0.0.1")
    secure.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
    return secure


def http_version(proxy: Proxy) -> str:
    """What a client that can do HTTP/2 gets."""
    words = ["--http2", "-s", "-o", os.devnull, "-w", "%{http_version}"]
    done = subprocess.run(
        [needs("curl"), *words, "--cacert", str(proxy.certificate), f"{proxy.url}/v1/tcp_warming"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout
