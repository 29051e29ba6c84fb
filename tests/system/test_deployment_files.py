"""The examples under deploy/: valid for the programs they are for, with commands and settings that there are."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import typer.main
import yaml
from installation import ENDPOINT, LONG_QUESTION, Installation, until

from weighbridge.cli.demo.process import free_ports
from weighbridge.cli.main import program
from weighbridge.settings import Settings

pytestmark = pytest.mark.system

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SETTING = re.compile(r"\bWEIGHBRIDGE_([A-Z0-9_]+)\b")
SLOW_S = 20.0


def needs(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


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
    "file", ["compose.yaml", "systemd/weighbridge.env", "haproxy.cfg", "nginx.conf"]
)
def test_each_setting_that_is_named_is_one(file: str) -> None:
    named = {name.lower() for name in SETTING.findall((DEPLOY / file).read_text())}
    assert named <= set(Settings.model_fields)


def test_the_composition_has_a_command_of_ours_and_files_that_are_there() -> None:
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = document["services"]
    assert_command(list(services["weighbridge"]["command"]))
    build = services["weighbridge"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert (DEPLOY / build["context"] / "constraints.txt").is_file()
    volumes = [v.partition(":")[0] for s in services.values() for v in s.get("volumes", [])]
    local = [name for name in volumes if name.startswith(".")]
    assert local
    assert all((DEPLOY / name).is_file() for name in local)
    assert {name for name in volumes if name.isalpha()} == set(document["volumes"])
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)


class Proxy:
    """A proxy with our example of a configuration in front of a gateway."""

    def __init__(self, port: int, certificate: Path) -> None:
        self.port = port
        self.certificate = certificate
        self.url = f"https://127.0.0.1:{port}"


@contextmanager
def running(argv: list[str], port: int, directory: Path) -> Iterator[None]:
    said = directory / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        until(lambda: listens(port) or process.poll() is not None, 20, "the proxy")
        assert process.poll() is None, said.read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_certificate(directory: Path) -> tuple[Path, Path]:
    key, certificate = directory / "tls.key", directory / "tls.crt"
    words = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=127.0.0.1",
    ]
    files = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([needs("openssl"), *words, *files], check=True, capture_output=True, timeout=60)
    return key, certificate


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(directory: Path, site: Installation) -> Iterator[Proxy]:
    binary, (port,) = needs("nginx"), free_ports(1)
    key, certificate = make_certificate(directory)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {directory / kind};" for kind in kinds)
    text = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        {
            "listen 443": f"listen 127.0.0.1:{port}",
            "/etc/nginx/tls/tls.crt": str(certificate),
            "/etc/nginx/tls/tls.key": str(key),
            "server weighbridge:8080": f"server 127.0.0.1:{site.port}",
            "http {": f"http {{ {places}",
        },
    )
    config = directory / "nginx.conf"
    config.write_text(text)
    base = [binary, "-p", str(directory), "-c", str(config), "-e", "stderr"]
    pid = f"pid {directory / 'pid'};"
    subprocess.run([*base, "-t", "-g", pid], check=True, timeout=60)
    with running([*base, "-g", f"daemon off; {pid}"], port, directory):
        yield Proxy(port, certificate)


@contextmanager
def haproxy(directory: Path, site: Installation) -> Iterator[Proxy]:
    binary, (port,) = needs("haproxy"), free_ports(1)
    key, certificate = make_certificate(directory)
    both = directory / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    text = replaced(
        (DEPLOY / "haproxy.cfg").read_text(),
        {
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/haproxy/tls.pem": str(both),
            "127.0.0.1:8080": f"127.0.0.1:{site.port}",
            "maxconn 16384": "maxconn 512",
            "check port 8081": f"check port {site.probe_port}",
        },
    )
    config = directory / "haproxy.cfg"
    config.write_text(text)
    subprocess.run([binary, "-c", "-f", str(config)], check=True, timeout=60)
    with running([binary, "-db", "-f", str(config)], port, directory):
        yield Proxy(port, certificate)


@pytest.fixture(params=[nginx, haproxy], ids=["nginx", "haproxy"])
def proxy(
    request: pytest.FixtureRequest,
    shared_site: Installation,
    make_public_directory: Callable[[], Path],
) -> Iterator[Proxy]:
    with request.param(make_public_directory(), shared_site) as made:
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
