"""Bringing the demo's parts up, and taking everything down again whatever happens."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from weighbridge.cli.demo import bucket as customer
from weighbridge.cli.demo.process import free_ports
from weighbridge.cli.demo.report import Result, Telling
from weighbridge.cli.demo.server import Server
from weighbridge.cli.demo.story import ENDPOINT, Models, tell
from weighbridge.cli.output import Output
from weighbridge.errors import SetupError


def play(output: Output, models: Path | None, *, keep: bool) -> bool:
    """The whole demo; True when it went as it should."""
    customer.require_installed()
    found = find_models(models)
    with _terminable(), _taken_down() as parts:
        result, server = _play(parts, found, Telling(output))
        output.show(result.document(), result.view())
        if keep:
            _stay(output, server)
    return result.ok


def find_models(given: Path | None) -> Models:
    """The two model directories; SetupError says where they were looked for."""
    clone = Path(__file__).resolve().parents[4]
    places = [given] if given is not None else [clone / "tests/models", Path("tests/models")]
    for place in places:
        first, second = (place.absolute() / name for name in ("llama-v1", "llama-v2"))
        if (first / "config.json").is_file() and (second / "config.json").is_file():
            return Models(first, second)
    looked = ", ".join(str(place) for place in places)
    raise SetupError(
        f"The demo's models, llama-v1 and llama-v2, are not in {looked}; "
        "run it in a clone of the repository, or name their directory with --models."
    )


def _play(parts: ExitStack, models: Models, telling: Telling) -> tuple[Result, Server]:
    root = Path(tempfile.mkdtemp(prefix="wb-demo-"))
    parts.callback(shutil.rmtree, root, ignore_errors=True)
    # Started by root, the embedded database runs as another user, who has to enter here.
    root.chmod(0o755)
    ports = free_ports(3)
    with telling.step("Start an S3 server with a customer's bucket of two fine-tunes"):
        bucket = customer.Bucket(ports[0], root / "s3.log")
        parts.callback(bucket.stop)
        bucket.prepare([models.first, models.second])
        telling.detail(f"{bucket.url}; every request must be signed")
    settings = {**bucket.platform_key.environment(), "WEIGHBRIDGE_S3_ENDPOINT_URL": bucket.url}
    with telling.step("Start Weighbridge: database, control plane, gateway"):
        server = Server(root, (ports[1], ports[2]), settings)
        parts.callback(server.stop)
        server.start(telling.detail)
        telling.detail(server.url)
    return tell(server, bucket, models, telling), server


def _stay(output: Output, server: Server) -> None:
    output.note(
        f"\nIt keeps running until Ctrl-C. In another terminal:\n"
        f"    export WEIGHBRIDGE_CONFIG={server.profile}\n"
        f"    weighbridge chat {ENDPOINT}\n"
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        output.note("Stopping.")


@contextmanager
def _taken_down() -> Iterator[ExitStack]:
    """Everything started is stopped, whatever happens; a second Ctrl-C does not disturb that."""
    parts = ExitStack()
    try:
        yield parts
    finally:
        before = {
            number: signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        parts.close()
        for number, action in before.items():
            signal.signal(number, action)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: with everything taken down."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
