"""Where a node of a cluster keeps what belongs to its engines: weights, logs, and the locks of their ports."""

import contextlib
import stat
from collections.abc import Mapping
from pathlib import Path

NODE_DIR_VARIABLE = "WEIGHBRIDGE_NODE_DIR"
"""Set where a node's Ray is started: the directory; else one in the temporary directory."""
WEIGHTS_DIR = "weights"
"""Below it: the node's cache of versions, shared by all its replicas."""
WRITE_BITS = stat.S_IWGRP | stat.S_IWOTH
OTHERS_BITS = stat.S_IRWXG | stat.S_IRWXO


def node_dir(environment: Mapping[str, str], temporary: Path, uid: int) -> Path:
    """The one that an operator chose is his to protect; of the other, every user could have taken the name.

    Raises PermissionError when somebody has, or could have put something into it.
    """
    if chosen := environment.get(NODE_DIR_VARIABLE):
        return Path(chosen)
    path = temporary / f"weighbridge-node-{uid}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & WRITE_BITS:
        raise PermissionError(
            f"{path} is not a directory that user {uid} alone can write to: remove it, or set "
            f"{NODE_DIR_VARIABLE} to another one where this node's Ray is started."
        )
    if found.st_mode & OTHERS_BITS:
        path.chmod(0o700)
    return path
