"""Other clients of S3, run in a virtual environment of their own: `peers.py <peer> <url> <folder> <directory> <name>…`.

Each fetches the same files into `directory`, 16 MiB ranges, and ends with an fsync of each; imports are not timed.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

PART_BYTES = 16 * 1024 * 1024
PARALLEL = 8
BUCKET = "acme"


def fsync(paths: list[str]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def boto3_download(url: str, folder: str) -> Callable[[str, str], None]:
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = boto3.client("s3", endpoint_url=url, config=Config(max_pool_connections=PARALLEL * 2))
    config = TransferConfig(
        multipart_chunksize=PART_BYTES,
        max_concurrency=PARALLEL,
        io_chunksize=PART_BYTES,
        preferred_transfer_client="classic",
    )
    return lambda name, path: client.download_file(BUCKET, f"{folder}/{name}", path, Config=config)


def obstore_download(url: str, folder: str) -> Callable[[str, str], None]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=url,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "allow_invalid_certificates": True},
    )

    async def download(name: str, path: str) -> None:
        key = f"{folder}/{name}"
        size = (await obstore.head_async(store, key))["size"]
        turns = asyncio.Semaphore(PARALLEL)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)

        async def part(start: int) -> None:
            async with turns:
                end = min(size, start + PART_BYTES)
                content = await obstore.get_range_async(store, key, start=start, end=end)
                await asyncio.to_thread(os.pwrite, descriptor, content, start)

        await asyncio.gather(*(part(start) for start in range(0, size, PART_BYTES)))
        os.close(descriptor)

    return lambda name, path: asyncio.run(download(name, path))


def awscrt_download(url: str, folder: str) -> Callable[[str, str], None]:
    from awscrt.auth import AwsCredentialsProvider
    from awscrt.http import HttpHeaders, HttpRequest
    from awscrt.io import ClientTlsContext, TlsContextOptions
    from awscrt.s3 import S3Client, S3RequestTlsMode, S3RequestType

    tls = url.startswith("https")
    options = TlsContextOptions()
    options.verify_peer = False
    client = S3Client(
        region="us-east-1",
        tls_mode=S3RequestTlsMode.ENABLED if tls else S3RequestTlsMode.DISABLED,
        tls_connection_options=(
            ClientTlsContext(options).new_connection_options() if tls else None
        ),
        credential_provider=AwsCredentialsProvider.new_static("a", "b"),
        part_size=PART_BYTES,
        throughput_target_gbps=10,
    )

    def download(name: str, path: str) -> None:
        headers = HttpHeaders([("host", urlsplit(url).netloc)])
        request = HttpRequest("GET", f"/{BUCKET}/{folder}/{name}", headers)
        client.make_request(
            type=S3RequestType.GET_OBJECT, request=request, recv_filepath=path
        ).finished_future.result(600)

    return download


def peak_mib() -> float:
    """Most memory of this program; what getrusage says includes the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


PEERS = {"boto3": boto3_download, "obstore": obstore_download, "awscrt": awscrt_download}


def main(peer: str, url: str, folder: str, directory: str, names: list[str]) -> None:
    PEERS[peer](url, folder)  # imports
    began, cpu = time.perf_counter(), time.process_time()
    download = PEERS[peer](url, folder)
    paths = [f"{directory}/{name}" for name in names]
    with ThreadPoolExecutor(2 if len(names) < 100 else PARALLEL) as pool:
        list(pool.map(download, names, paths))
    fsync(paths)
    found = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    found["rss_mib"] = peak_mib()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:5], sys.argv[5:])
