"""A whole Weighbridge as a user runs it: `weighbridge up` in a directory of its own, and its clients.

    with running_s3() as s3, installed(directory, s3) as site:
        site.prepare()
        site.deploy(1)

On leaving, `weighbridge down` has stopped it, and neither a process nor a listening port is left.
"""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from s3 import READ_ACTIONS, S3Server
from weighbridge.cli.demo.process import free_ports
from weighbridge.cli.demo.traffic import Traffic
from weighbridge.runtimes.node import ENGINE_ROLE
from weighbridge.runtimes.processes import (
    ProcessIdentity,
    find_marked,
    identify,
    is_alive,
    lock_holder,
    send_signal,
)
from weighbridge.sdk import (
    Client,
    ClientError,
    Deployment,
    ModelVersion,
    wait_for_deployment,
    wait_for_sync,
)

MODELS = Path(__file__).parents[1] / "models"
PROGRAM = (sys.executable, "-m", "weighbridge.cli.main")
ORG, ARCH, ENDPOINT, BUCKET = "acme", "llama-tiny", "acme-chat", "acme-models"
QUESTION = "Which version are you?"
LONG_QUESTION = "Count to one hundred."
ANSWERS = {1: "I am version one of the demo model.", 2: "I am version two of the demo model."}
SUFFIXES = {"1": "v1", "2": "v2"}
LIMIT_S = 60.0
QUICK = {
    "WEIGHBRIDGE_MIN_READY_S": "0.3",
    "WEIGHBRIDGE_BAKE_S": "0.5",
    "WEIGHBRIDGE_REQUEST_MAX_S": "30",
    "WEIGHBRIDGE_DRAIN_DEADLINE_S": "40",
    "WEIGHBRIDGE_REPLICA_STOP_GRACE_S": "3",
    "WEIGHBRIDGE_PROBE_PERIOD_S": "0.5",
}


def environment(root: Path, **settings: str) -> dict[str, str]:
    """What `weighbridge` is started with: no settings of another server, no credentials of a person."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WEIGHBRIDGE_", "AWS_"))
    }
    return {
        **inherited,
        "PYTHONUNBUFFERED": "1",
        "WEIGHBRIDGE_DATA_DIR": str(root / "data"),
        "WEIGHBRIDGE_CONFIG": str(root / "config.toml"),
        **settings,
    }


def weighbridge(env: Mapping[str, str], *arguments: str, limit_s: float = LIMIT_S):
    """Run one command to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def until(condition: Callable[[], object], limit_s: float = LIMIT_S, what: str = "") -> object:
    """The first true answer of `condition`; a server that is away for the moment is asked again."""
    deadline_s = time.monotonic() + limit_s
    last: Exception | None = None
    while True:
        try:
            if answer := condition():
                return answer
        except ClientError as error:
            last = error
        assert time.monotonic() < deadline_s, f"not within {limit_s:g} s: {what} {last or ''}"
        time.sleep(0.02)


def processes_of(root: Path) -> dict[int, str]:
    """Every living process that was started for this directory, works in it or names it."""
    found = {}
    needle = os.fsencode(root)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            about = (
                command + (entry / "environ").read_bytes() + os.fsencode((entry / "cwd").readlink())
            )
            if needle in about and identify(int(entry.name)):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


@dataclass
class Up:
    """One run of `weighbridge up --json`, and what it said."""

    process: subprocess.Popen
    stderr: Path
    messages: list[str] = field(default_factory=list)
    keys: queue.Queue = field(default_factory=queue.Queue)

    def read(self) -> None:
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "admin_key":
                self.keys.put(event["key"])
            else:
                self.messages.append(event["message"])

    def wait(self, limit_s: float = LIMIT_S) -> int:
        code = self.process.wait(limit_s)
        self.reader.join(limit_s)
        self.process.stdout.close()
        return code

    def start_reading(self) -> None:
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()


class Installation:
    """One data directory and whatever runs on it."""

    def __init__(self, root: Path, s3: S3Server | None = None, **settings: str) -> None:
        self.root = root
        self.run_dir = (root / "data" / "run").resolve()
        self.s3 = s3
        self.port, self.probe_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            **QUICK,
            "WEIGHBRIDGE_PORT": str(self.port),
            "WEIGHBRIDGE_PROBE_PORT": str(self.probe_port),
            **settings,
        }
        if s3 is not None:
            self.settings |= {"WEIGHBRIDGE_S3_ENDPOINT_URL": s3.endpoint_url, **s3.environment}
        self.ups: list[Up] = []
        self.admin_key = self.management_key = self.inference_key = ""

    @property
    def env(self) -> dict[str, str]:
        return environment(self.root, **self.settings)

    @property
    def up(self) -> Up:
        return self.ups[-1]

    def start(self) -> None:
        """Start `up` and wait until everything answers."""
        self.spawn_up()
        until(self.answers, what="up")

    def spawn_up(self, *options: str) -> Up:
        stderr = self.root / f"up-{len(self.ups)}.stderr"
        with stderr.open("wb") as sink:
            process = subprocess.Popen(
                [*PROGRAM, "up", "--json", *options],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                start_new_session=True,
            )
        self.ups.append(Up(process, stderr))
        self.up.start_reading()
        return self.up

    def answers(self) -> bool:
        code = self.up.process.poll()
        assert code is None, f"up ended with {code}: {self.up.stderr.read_text()}"
        with suppress(queue.Empty):
            self.admin_key = self.up.keys.get_nowait()
        if not self.admin_key:
            return False
        with self.client() as client:
            status = client.admin.status()
            return bool(status.gateways) and status.raw["runtime"] == "ok"

    def stop(self) -> None:
        """`weighbridge down`; afterwards nothing of this installation may be left."""
        down = weighbridge(self.env, "down", "--json")
        assert down.returncode == 0, down.stderr
        for up in self.ups:
            up.wait()
        self.assert_nothing_left()

    def assert_nothing_left(self) -> None:
        assert processes_of(self.root) == {}
        for port in (self.port, self.probe_port):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} still answers"

    def kill_all(self) -> None:
        """After a failure of a test: no process may outlive it."""
        for up in self.ups:
            if up.process.poll() is None:
                up.process.kill()
                up.wait()
        for pid in processes_of(self.root):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def client(self, **options: object) -> Client:
        return Client(
            self.url,
            self.management_key or None,
            admin_key=self.admin_key,
            inference_key=self.inference_key or None,
            **options,
        )

    def process(self, service: str) -> ProcessIdentity:
        """The main process of a service: agent, gateway, control; or the supervisor."""
        found = lock_holder(self.run_dir / f"{service}.lock")
        assert found is not None, f"no {service} runs"
        return found

    def postmaster(self) -> ProcessIdentity:
        lines = (self.root / "data/postgres/postmaster.pid").read_text().splitlines()
        found = identify(int(lines[0]))
        assert found is not None
        return found

    def engines(self) -> dict[str, ProcessIdentity]:
        """The living engines by their replica's id."""
        found = {}
        for process in find_marked(self.run_dir):
            with suppress(ProcessLookupError):
                is_leader = os.getpgid(process.identity.pid) == process.identity.pid
                if process.mark.role == ENGINE_ROLE and is_leader:
                    found[process.mark.name] = process.identity
        return found

    def kill(self, process: ProcessIdentity) -> None:
        send_signal(process, signal.SIGKILL)
        until(lambda: not is_alive(process), 10, "death")

    def prepare(self, replicas: int = 2, **engine: object) -> None:
        """Org, keys, role and bucket; the architecture; both versions synced; an endpoint."""
        with self.client() as client:
            admin = client.admin
            org = admin.orgs.create(ORG)
            arn = self.s3.create_role(f"reader-{self.port}", READ_ACTIONS, org.s3_external_id)
            admin.orgs.update(ORG, s3_role_arn=arn)
            self.management_key = admin.keys.create("management", name="t", org_name=ORG).key
            self.inference_key = admin.keys.create("inference", name="t", org_name=ORG).key
            settings = {"slots": 4, **engine}
            admin.architectures.register(ARCH, str(MODELS / "llama-v1"), engine=settings)
            admin.endpoints.create(ENDPOINT, org_name=ORG, model_arch_id=ARCH, replicas=replicas)
        self.fill_bucket()
        with self.client() as client:
            for name, alias in (("llama-v1", "production"), ("llama-v2", "candidate")):
                self.upload(client, name, alias, name.removeprefix("llama-"))

    def fill_bucket(self) -> None:
        self.s3.create_bucket(BUCKET)
        for name in ("llama-v1", "llama-v2"):
            for file in sorted((MODELS / name).iterdir()):
                if file.name != "reference.json":
                    self.s3.put(BUCKET, f"{name}/{file.name}", file.read_bytes())

    def upload(self, client: Client, prefix: str, alias: str, suffix: str) -> ModelVersion:
        version = client.models.upload(
            ORG,
            ARCH,
            f"s3://{BUCKET}/{prefix}",
            version_aliases=[alias],
            system_fingerprint_suffix=suffix,
        )
        return wait_for_sync(client, version.name, timeout_s=LIMIT_S)

    def ask_for(self, client: Client, version: int | str, endpoint: str = ENDPOINT) -> Deployment:
        """Deploy without waiting."""
        name = f"orgs/{ORG}/models/{ARCH}/versions/{version}"
        return client.endpoints.deploy(endpoint, name)

    def deploy(self, version: int | str, endpoint: str = ENDPOINT) -> Deployment:
        with self.client() as client:
            deployment = self.ask_for(client, version, endpoint)
            return wait_for_deployment(client, endpoint, deployment.id, timeout_s=LIMIT_S)

    def say(self, client: Client, endpoint: str = ENDPOINT) -> str:
        messages = [{"role": "user", "content": QUESTION}]
        return client.chat.create(endpoint, messages, temperature=0).text

    def traffic(self, client: Client, endpoint: str = ENDPOINT, *, pause_s: float = 0.0) -> Traffic:
        """Eight clients that stream, as a rule without pause, and never try again."""
        return Traffic(client, endpoint, LONG_QUESTION, SUFFIXES, pause_s=pause_s)

    def ready_replicas(self, client: Client, endpoint: str = ENDPOINT) -> list[str]:
        found = client.admin.replicas.list(endpoint)
        return [replica.id for replica in found if replica.state == "ready"]

    def logs(self) -> dict[Path, str]:
        """Everything the installation wrote for people to read, by file."""
        files = [*(self.root / "data" / "logs").rglob("*.log*"), *self.root.glob("*.stderr")]
        files += [self.root / "data/postgres/log"]
        return {path: path.read_text(errors="replace") for path in files if path.is_file()}


@contextmanager
def installed(root: Path, s3: S3Server | None = None, **settings: str) -> Iterator[Installation]:
    """A running installation in `root`, which other users must be able to enter."""
    site = Installation(root, s3, **settings)
    try:
        site.start()
        yield site
        site.stop()
    finally:
        site.kill_all()
