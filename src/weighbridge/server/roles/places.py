"""The directories that every role of a server needs."""

import os

from weighbridge.errors import SetupError
from weighbridge.settings import DataDir


def make_directories(paths: DataDir) -> None:
    """What is there stays. Raises SetupError where they cannot be made."""
    # Root's database user must be able to walk through; everything below that matters is closed.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        paths.root.mkdir(mode=mode, parents=True, exist_ok=True)
        for private in (paths.run, paths.logs, paths.secrets, paths.store, paths.cache):
            private.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"The data directory {paths.root} cannot be used: {error.strerror}. "
            "Choose another with --data-dir or WEIGHBRIDGE_DATA_DIR.",
            code="data_dir_unusable",
        ) from error
