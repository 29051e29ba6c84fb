"""A weight store with its server on loopback, and nodes that pull from it."""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from s3 import S3Server
from weighbridge.weights.bucket.blobs import manifest_key
from weighbridge.weights.bucket.collection import blob_key
from weighbridge.weights.bucket.objects import Bucket
from weighbridge.weights.digest import content_digest
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.node.pull import Pull
from weighbridge.weights.node.source import WeightSource
from weighbridge.weights.served.server import WeightServer
from weighbridge.weights.served.tokens import weights_token

PEPPER = b"p" * 32
MIB = 1024 * 1024


def content(size: int) -> bytes:
    """Not the same in any two of its parts."""
    return os.urandom(size)


def publish(store: FilesystemStore, files: Mapping[str, bytes]) -> Manifest:
    entries = []
    for name, text in files.items():
        digest = content_digest(text)
        staged = store.staging_file("new")
        staged.write_bytes(text)
        store.publish_blob(staged, digest)
        entries.append(FileEntry(name, len(text), digest))
    manifest = Manifest.of(entries)
    store.publish(manifest)
    return manifest


def in_bucket(s3: S3Server, store: FilesystemStore, manifest: Manifest) -> WeightSource:
    """Put a version of the store into a bucket of the operator's, as a weight store there has it."""
    name, prefix = "operators-store", "weights"
    key_id, secret = s3.owner_key
    s3.create_bucket(name)
    bucket = Bucket(name, prefix, endpoint_url=s3.endpoint_url, access_key=s3.owner_key)
    for entry in manifest.files:
        bucket.put(blob_key(entry.digest), store.blob_path(entry.digest).read_bytes())
    bucket.put(manifest_key(manifest.digest), manifest.encode())
    return WeightSource(
        f"s3://{name}/{prefix}",
        endpoint_url=s3.endpoint_url,
        access_key_id=key_id,
        secret_access_key=secret,
        free_min_share=0.0,
    )


@dataclass
class WeightSite:
    store: FilesystemStore
    server: WeightServer
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, digest: str, valid_s: float = 600.0) -> str:
        return weights_token(PEPPER, digest, int(time.time() + valid_s))

    def source(self, digest: str, **changes: object) -> WeightSource:
        values = {"url": self.url, "token": self.token(digest), "free_min_share": 0.0}
        return WeightSource(**(values | changes))

    def pull(self, manifest: Manifest, **changes: object) -> Pull:
        source = self.source(manifest.digest, **changes)
        return Pull(manifest.digest, manifest.size_bytes, source)


@contextmanager
def running_weights(root: Path, **options: object) -> Iterator[WeightSite]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    store = FilesystemStore(root)
    server = WeightServer(store, PEPPER, listener, **options)
    thread = Thread(target=server.serve)
    thread.start()
    try:
        yield WeightSite(store, server, port)
    finally:
        server.close()
        thread.join(10)
