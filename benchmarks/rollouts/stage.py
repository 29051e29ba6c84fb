"""The server of the rollout benchmark with its versions, and the load on it."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.rollouts.engine import Behaviour, weights
from weighbridge.cli.demo.bucket import BUCKET, Bucket
from weighbridge.cli.demo.process import free_ports
from weighbridge.cli.demo.server import Server
from weighbridge.runtimes.node import ENGINE_ROLE
from weighbridge.runtimes.processes import find_marked, lock_holder, send_signal
from weighbridge.sdk import Client, Deployment, wait_for_sync

ORG, ARCH, ENDPOINT = "acme", "paced", "acme-paced"
MODEL = Path(__file__).parents[2] / "tests/models/llama-v1"
"""Only its configuration and tokenizer are used: an architecture must have them."""

MIN_READY_S = 1.0
BAKE_S = 2.0
START_TIMEOUT_S = 6
SETTINGS = {
    "WEIGHBRIDGE_MIN_READY_S": str(MIN_READY_S),
    "WEIGHBRIDGE_BAKE_S": str(BAKE_S),
    "WEIGHBRIDGE_REPLICA_SLOTS": "32",
    "WEIGHBRIDGE_PROBE_PERIOD_S": "0.5",
}


class Stage:
    """A running server; `versions` are the behaviours' names with their version's full name."""

    def __init__(self, root: Path, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.run_dir = (root / "data/run").resolve()
        self.keys: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def client(self) -> Client:
        return self.server.client(**self.keys)

    def deploy(self, client: Client, name: str) -> Deployment:
        return client.endpoints.deploy(ENDPOINT, self.versions[name])

    def kill_service(self, service: str) -> None:
        holder = lock_holder(self.run_dir / f"{service}.lock")
        assert holder is not None, f"no {service} runs"
        send_signal(holder, signal.SIGKILL)

    def kill_engine(self, replica_id: str) -> bool:
        """Whether there was one."""
        found = [
            process.identity
            for process in find_marked(self.run_dir)
            if process.mark.role == ENGINE_ROLE and process.mark.name == replica_id
        ]
        for identity in found:
            send_signal(identity, signal.SIGKILL)
        return bool(found)


@contextmanager
def standing(behaviours: list[Behaviour], replicas: int) -> Iterator[Stage]:
    """A server with one endpoint and a synced version for each behaviour; nothing is left afterwards."""
    with ExitStack() as parts:
        root = Path(tempfile.mkdtemp(prefix="wb-bench-"))
        parts.callback(shutil.rmtree, root, ignore_errors=True)
        root.chmod(0o755)
        for behaviour in behaviours:
            (root / "models" / behaviour.name).mkdir(parents=True)
            (root / "models" / behaviour.name / "model.safetensors").write_bytes(weights(behaviour))
        ports = free_ports(3)
        bucket = Bucket(ports[0], root / "s3.log")
        parts.callback(bucket.stop)
        bucket.prepare([root / "models" / behaviour.name for behaviour in behaviours])
        server = Server(
            root,
            (ports[1], ports[2]),
            {
                **SETTINGS,
                **bucket.platform_key.environment(),
                "WEIGHBRIDGE_S3_ENDPOINT_URL": bucket.url,
            },
        )
        parts.callback(server.stop)
        server.start(lambda _: None)
        stage = Stage(root, server, ports[1])
        _prepare(stage, bucket, _base_model(root, behaviours[0]), behaviours, replicas)
        yield stage


def _base_model(root: Path, behaviour: Behaviour) -> Path:
    base = root / "base"
    shutil.copytree(MODEL, base)
    (base / "model.safetensors").write_bytes(weights(behaviour))
    return base


def _prepare(
    stage: Stage, bucket: Bucket, base: Path, behaviours: list[Behaviour], replicas: int
) -> None:
    command = [sys.executable, "-m", "benchmarks.rollouts.engine"]
    for name in ("model", "host", "port", "served_name"):
        command += [f"--{name.replace('_', '-')}", f"{{{name}}}"]
    engine = {
        "engine": "command",
        "command": command,
        "slots": 64,
        "start_timeout_s": START_TIMEOUT_S,
        "env": {"PYTHONPATH": str(Path(__file__).parents[2])},
    }
    with stage.client() as client:
        admin = client.admin
        org = admin.orgs.create(ORG)
        admin.orgs.update(ORG, s3_role_arn=bucket.grant(org.s3_external_id))
        for kind, name in (("management", "api_key"), ("inference", "inference_key")):
            stage.keys[name] = admin.keys.create(kind, name="bench", org_name=ORG).key or ""
        admin.architectures.register(ARCH, str(base), engine=engine)
        admin.endpoints.create(ENDPOINT, org_name=ORG, model_arch_id=ARCH, replicas=replicas)
    with stage.client() as client:
        for behaviour in behaviours:
            version = client.models.upload(
                ORG,
                ARCH,
                f"s3://{BUCKET}/{behaviour.name}",
                system_fingerprint_suffix=behaviour.name,
            )
            stage.versions[behaviour.name] = wait_for_sync(client, version.name, timeout_s=60).name


@contextmanager
def loaded(stage: Stage, streams: int) -> Iterator[Callable[[], dict]]:
    """Streams without pause while the context lasts; the function it gives ends them and tells what they saw."""
    options = {
        "port": stage.port,
        "key": stage.keys["inference_key"],
        "model": ENDPOINT,
        "streams": streams,
        "seed": 1,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.rollouts.load", json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> dict:
        told, _ = process.communicate(timeout=60)
        return dict(json.loads(told))

    try:
        yield end
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
