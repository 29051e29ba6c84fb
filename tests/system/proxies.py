"""Proxies in front of gateways, with our examples of their configurations."""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from installation import until

from weighbridge.cli.demo.process import free_ports

DEPLOY = Path(__file__).parents[2] / "deploy"


class Gateway(Protocol):
    port: int
    probe_port: int


def needs(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


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
def nginx(directory: Path, gateways: Sequence[Gateway]) -> Iterator[Proxy]:
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
            "server gateways:8080 max_fails=1 fail_timeout=2s;": " ".join(
                f"server 127.0.0.1:{gateway.port} max_fails=1 fail_timeout=2s;"
                for gateway in gateways
            ),
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
def haproxy(directory: Path, gateways: Sequence[Gateway]) -> Iterator[Proxy]:
    binary, (port,) = needs("haproxy"), free_ports(1)
    key, certificate = make_certificate(directory)
    both = directory / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    text = replaced(
        (DEPLOY / "haproxy.cfg").read_text(),
        {
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/haproxy/tls.pem": str(both),
            "    server gateway-1 127.0.0.1:8080\n    #server gateway-2 10.0.0.2:8080\n": "".join(
                f"    server gateway-{number} 127.0.0.1:{gateway.port} port {gateway.probe_port}\n"
                for number, gateway in enumerate(gateways, 1)
            ),
            "maxconn 16384": "maxconn 512",
        },
    )
    config = directory / "haproxy.cfg"
    config.write_text(text)
    subprocess.run([binary, "-c", "-f", str(config)], check=True, timeout=60)
    with running([binary, "-db", "-f", str(config)], port, directory):
        yield Proxy(port, certificate)
