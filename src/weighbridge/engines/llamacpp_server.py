"""The process of a llama.cpp replica: prove which bytes it has, convert them, serve them.

Started as `python -m weighbridge.engines.llamacpp_server`; the bearer token comes in the
environment. It serves until SIGTERM. A version directory that is not the one asked for ends it with
one line on standard error and exit code 2; nothing is served then (R15).
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import xllamacpp
from blake3 import blake3

from weighbridge.engines.base import TOKEN_VARIABLE
from weighbridge.engines.gguf.cache import cached_gguf
from weighbridge.engines.gguf.generation import context_tokens, read_sampling
from weighbridge.errors import InvalidError

MANIFEST_FILE = "weighbridge-manifest.json"
MANIFEST_BYTES_MAX = 64 * 1024 * 1024
HTTP_THREADS_SPARE = 8
"""HTTP threads beyond one per slot: waiting requests, probes and metrics must not starve."""
PROMPT_CACHE_MIB = 256
"""Prompts kept outside the slots, per replica; llama.cpp's own default is 8 GiB."""
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
EXIT_REFUSED = 2


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if not token:
        return _refuse(f"{TOKEN_VARIABLE} is not set")
    # Blocked before any thread starts, so that sigwait below is the only one to see them: also
    # while the weights load, which keeps the loading thread in native code.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    loading = threading.Thread(target=_serve_or_exit, args=(options, token), daemon=True)
    loading.start()
    signal.sigwait(STOP_SIGNALS)
    # The gateway has drained this replica, or somebody wants it gone: nothing here needs undoing,
    # and tearing down native threads could wait for a client that reads slowly.
    sys.stderr.flush()
    os._exit(0)


def check_version(folder: Path, digest: str) -> None:
    """Raises InvalidError unless `folder` holds the version whose manifest has this BLAKE3 digest.

    Sizes are compared, contents are not: the weight store has hashed each file, and files of a
    version are never changed in place.
    """
    path = folder / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror}") from error
    if len(text) > MANIFEST_BYTES_MAX:
        raise InvalidError(f"{path} is larger than {MANIFEST_BYTES_MAX} bytes")
    found = blake3(text).hexdigest()
    if found != digest:
        raise InvalidError(f"{folder} holds version {found}, not {digest}")
    for name, size_bytes in _listed(text).items():
        _check_file(folder, name, size_bytes)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="weighbridge.engines.llamacpp_server", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="the version directory")
    parser.add_argument("--digest", required=True, help="BLAKE3 of its manifest, in hex")
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=4, help="requests answered at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    parser.add_argument("--context", type=int, default=None, help="tokens of context per slot")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args(argv)


def _serve_or_exit(options: argparse.Namespace, token: str) -> None:
    """Runs in its own thread; ends the whole process when the replica cannot serve."""
    try:
        check_version(options.model, options.digest)
        path = cached_gguf(options.model, options.digest, options.cache_dir, options.dtype)
        # Kept by this frame; the server's own threads answer from here on.
        server = _server(_parameters(options, token, path), path)
        sys.stderr.write(f"serving {options.served_name} on {server.listening_address}\n")
        sys.stderr.flush()
        threading.Event().wait()
    except InvalidError as error:
        os._exit(_refuse(error.message))
    except Exception as error:  # noqa: BLE001 - the edge of the process
        os._exit(_refuse(f"{type(error).__name__}: {error}"))


def _server(params: xllamacpp.CommonParams, path: Path) -> xllamacpp.Server:
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise InvalidError(
            f"llama.cpp did not start with {path}: {error} The lines above say why; if they call "
            "the file damaged, delete it and it is converted anew."
        ) from error


def _parameters(options: argparse.Namespace, token: str, path: Path) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {options.served_name}
    params.api_keys = [token]
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.slots * (options.context or context_tokens(options.model))
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.n_threads_http = options.slots + HTTP_THREADS_SPARE
    params.endpoint_metrics = True
    sampling = read_sampling(options.model)
    params.sampling.temp = sampling.temperature
    params.sampling.top_p = sampling.top_p
    params.sampling.top_k = sampling.top_k
    params.sampling.min_p = sampling.min_p
    params.cache_ram_mib = PROMPT_CACHE_MIB
    # It would shrink what is asked for here to the memory it believes to be free.
    params.fit_params = False
    params.ui = False
    params.verbosity = 1
    return params


def _listed(text: bytes) -> Mapping[str, int]:
    try:
        match json.loads(text):
            case {"files": list(files)} if files:
                return {entry["path"]: entry["size"] for entry in files}
            case _:
                raise InvalidError(f"{MANIFEST_FILE} lists no files")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidError(f"{MANIFEST_FILE} is not a manifest") from error


def _check_file(folder: Path, name: str, size_bytes: int) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise InvalidError(f"{MANIFEST_FILE} names {name!r}, which is outside the version")
    try:
        found = (folder / relative).stat().st_size
    except OSError as error:
        raise InvalidError(f"{folder / relative} cannot be read: {error.strerror}") from error
    if found != size_bytes:
        raise InvalidError(f"{folder / relative} has {found} bytes, not {size_bytes}")


def _refuse(message: str) -> int:
    sys.stderr.write(f"weighbridge: replica refused to start: {message}\n")
    sys.stderr.flush()
    return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())
