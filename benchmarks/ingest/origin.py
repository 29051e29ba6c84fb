"""One local origin for all candidates: nginx serving ranges of files in memory, plain and with TLS.

It states the CRC64NVME of each object as S3 does, at HEAD and not at a range of it, so that a client that
verifies has what to verify.
"""

import base64
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import awscrt.checksums

BUCKET = "acme"
PIECE_BYTES = 1 << 20
START_S_MAX = 10.0
MEMORY = Path("/dev/shm")

_CONFIG = """
worker_processes auto; daemon off; pid {run}/pid; error_log {run}/errors;
{user}
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 600;
  open_file_cache max=8000; root {data};
  client_body_temp_path {run}/1; proxy_temp_path {run}/2; fastcgi_temp_path {run}/3;
  uwsgi_temp_path {run}/4; scgi_temp_path {run}/5;
  map_hash_max_size 32768; map_hash_bucket_size 128;
  map $uri $crc64nvme {{ default ""; include {run}/checksums; }}
  map $request_method $stated {{ HEAD $crc64nvme; default ""; }}
  map $stated $checksum_type {{ "" ""; default FULL_OBJECT; }}
  add_header x-amz-checksum-crc64nvme $stated; add_header x-amz-checksum-type $checksum_type;
  server {{ listen 127.0.0.1:{plain} reuseport; }}
  server {{ listen 127.0.0.1:{tls} ssl reuseport; ssl_certificate {run}/cert.pem;
            ssl_certificate_key {run}/key.pem; ssl_protocols TLSv1.3; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Folder:
    """Files of random bytes, so that nothing along the way can be clever about them."""

    name: str
    files: Sequence[str]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Origin:
    data: Path
    plain_url: str
    tls_url: str
    ca_bundle: Path

    def path(self, folder: str, name: str) -> Path:
        return self.data / BUCKET / folder / name


@contextmanager
def running_origin(folders: Sequence[Folder]) -> Iterator[Origin]:
    """Needs nginx and openssl of the system; SystemExit names what is missing."""
    for program in ("nginx", "openssl"):
        if shutil.which(program) is None:
            raise SystemExit(f"The ingest benchmark needs {program}; install it first.")
    memory = str(MEMORY) if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as data, tempfile.TemporaryDirectory() as run:
        Path(data).chmod(0o755)
        with (Path(run) / "checksums").open("w") as checksums:
            for folder in folders:
                _make(Path(data), folder, checksums)
        ports = _free_port(), _free_port()
        _certificate(Path(run))
        user = "user root;" if os.getuid() == 0 else ""
        config = _CONFIG.format(run=run, data=data, plain=ports[0], tls=ports[1], user=user)
        (Path(run) / "nginx.conf").write_text(config)
        with subprocess.Popen(
            ["nginx", "-p", run, "-c", f"{run}/nginx.conf"], stderr=subprocess.DEVNULL
        ) as server:
            try:
                _wait_for(ports[0])
                yield Origin(
                    Path(data),
                    f"http://127.0.0.1:{ports[0]}",
                    f"https://127.0.0.1:{ports[1]}",
                    Path(run) / "cert.pem",
                )
            finally:
                server.terminate()


def _make(data: Path, folder: Folder, checksums: TextIO) -> None:
    directory = data / BUCKET / folder.name
    directory.mkdir(parents=True)
    for name in folder.files:
        checksum = 0
        with (directory / name).open("wb") as file:
            for at in range(0, folder.size_bytes, PIECE_BYTES):
                content = os.urandom(min(PIECE_BYTES, folder.size_bytes - at))
                checksum = awscrt.checksums.crc64nvme(content, checksum)
                file.write(content)
        stated = base64.b64encode(checksum.to_bytes(8, "big")).decode()
        checksums.write(f"/{BUCKET}/{folder.name}/{name} {stated};\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    limit = time.monotonic() + START_S_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.05)
        else:
            return


def _certificate(run: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", f"{run}/key.pem", "-out", f"{run}/cert.pem", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
