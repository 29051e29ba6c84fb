"""The weight server's process: it answers until SIGTERM or SIGINT, and holds nothing that could be lost."""

import os
import signal
import socket
import sys
from threading import Thread

import structlog

from weighbridge.errors import SetupError
from weighbridge.routing.tokens import load_pepper
from weighbridge.runtimes.processes import hold_lock
from weighbridge.settings import Settings
from weighbridge.telemetry.logs import configure_logs
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.served.address import weights_host
from weighbridge.weights.served.server import WeightServer

log = structlog.get_logger()

NAME = "weights"


def main() -> int:
    settings = Settings()
    try:
        configure_logs(NAME, settings.log_level)
        with hold_lock(settings.paths.run / f"{NAME}.lock"):
            _serve(settings)
    except SetupError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - the supervisor shows this line
        return os.EX_CONFIG
    return 0


def _serve(settings: Settings) -> None:
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    host, port = weights_host(settings), settings.weights_port
    with _listener(host, port) as listener:
        store = FilesystemStore(settings.paths.store)
        server = WeightServer(store, load_pepper(settings.paths.secrets), listener)
        thread = Thread(target=_answer, args=(server,), name="accept", daemon=True)
        thread.start()
        log.info("weights.ready", host=host, port=port)
        signal.sigwait(stops)
        server.close()
        thread.join()


def _answer(server: WeightServer) -> None:
    """Whatever ends it unasked ends the process, which is then started again."""
    try:
        server.serve()
    except BaseException:
        log.exception("weights.broke")
        os._exit(1)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SetupError(
            f"The weight server cannot listen on {host}:{port}: {error.strerror or error}. Set "
            "WEIGHBRIDGE_WEIGHTS_HOST and WEIGHBRIDGE_WEIGHTS_PORT to an address of this machine that nodes reach.",
            code="weights_host",
        ) from error


if __name__ == "__main__":
    sys.exit(main())
