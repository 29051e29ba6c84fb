"""Secrets both sides can derive: key digests and replica tokens, under one pepper kept beside the data."""

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

PEPPER_BYTES = 32


def load_pepper(directory: Path) -> bytes:
    """Read the pepper, making it on first use (mode 600 in a mode 700 directory)."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "pepper"
    if not path.exists():
        temporary = directory / f".pepper.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(PEPPER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # link, not rename: of two first starts one wins and both then read the same pepper.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_bytes()


def store_pepper(directory: Path, pepper: bytes) -> None:
    """Put the pepper of a backup in the place of the one that is there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = directory / f".pepper.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pepper)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / "pepper")


def pepper_mark(pepper: bytes) -> str:
    """Tells one pepper from another, and nothing about either."""
    return hashlib.blake2b(b"weighbridge backup", key=pepper[:64], digest_size=16).hexdigest()


def key_digest(pepper: bytes, key: str) -> bytes:
    """What is stored of an API key (T3). A fast hash suffices for 256 random bits."""
    return hmac.digest(pepper, key.encode(), hashlib.sha256)


def replica_token(pepper: bytes, replica_id: str) -> str:
    """The bearer token that one replica demands; derived, so it is never stored (G12, T5)."""
    raw = hmac.digest(pepper, b"replica:" + replica_id.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
