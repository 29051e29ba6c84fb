"""The weight server on real sockets: what nodes ask for, and what nobody gets."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from weighbridge.weights.manifest import Manifest
from weighbridge.weights.served import server as server_module
from weighbridge.weights.served.requests import HEAD_BYTES_MAX
from weight_site import MIB, WeightSite, content, publish, running_weights

BLOB = content(3 * MIB + 17)
LIMIT_S = 10.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WeightSite]:
    with running_weights(tmp_path / "store", connections_max=8, head_s=0.5, stall_s=1.0) as found:
        yield found


@pytest.fixture
def manifest(site: WeightSite) -> Manifest:
    return publish(site.store, {"config.json": b"{}", "model.safetensors": BLOB})


def ask(site: WeightSite, path: str, token: str = "", method: str = "GET", **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=LIMIT_S)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def blob_path(manifest: Manifest, name: str = "model.safetensors") -> str:
    return f"/v1/versions/{manifest.digest}/blobs/{manifest.by_path()[name].digest}"


def code_of(answer) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["code"]


def raw(site: WeightSite, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """All that comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=LIMIT_S) as peer:
        found = b""
        with contextlib.suppress(OSError):
            for piece in pieces:
                peer.sendall(piece)
                time.sleep(pause_s)
        with contextlib.suppress(ConnectionError):
            while piece := peer.recv(65536):
                found += piece
        return found


def test_a_node_gets_the_manifest_and_any_range_of_its_blobs(site, manifest):
    token = site.token(manifest.digest)
    status, _, body = ask(site, f"/v1/versions/{manifest.digest}/manifest", token)
    assert (status, Manifest.decode(body)) == (200, manifest)
    assert ask(site, blob_path(manifest), token)[2] == BLOB
    status, headers, body = ask(site, blob_path(manifest), token, Range="bytes=5-1048580")
    assert (status, body) == (206, BLOB[5:1048581])
    assert headers["Content-Range"] == f"bytes 5-1048580/{len(BLOB)}"
    assert ask(site, blob_path(manifest), token, Range=f"bytes={len(BLOB) - 3}-")[2] == BLOB[-3:]
    status, headers, body = ask(site, blob_path(manifest), token, method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(BLOB)), b"")


def test_several_requests_go_over_one_connection_and_one_after_another(site, manifest):
    path, token = blob_path(manifest, "config.json"), site.token(manifest.digest)
    head = f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"
    last = f"{head}Connection: close\r\n\r\n"
    assert raw(site, f"{head}\r\n{head}\r\n{last}".encode()).count(b"\r\n\r\n{}") == 3


@pytest.mark.parametrize("token", ["", "x", "wbw_" + "0" * 64 + ".99999999999." + "A" * 43])
def test_without_a_right_token_nothing_is_told(site, manifest, token):
    absent = "0" * 64
    for path in (blob_path(manifest), f"/v1/versions/{absent}/manifest"):
        assert code_of(ask(site, path, token)) == (401, "weights_token_wrong")


def test_a_token_opens_nothing_but_its_own_version_in_its_own_time(site, manifest):
    other = publish(site.store, {"other": b"secret weights"})
    token = site.token(manifest.digest)
    assert code_of(ask(site, blob_path(other, "other"), token)) == (401, "weights_token_wrong")
    stranger = f"/v1/versions/{manifest.digest}/blobs/{other.files[0].digest}"
    assert code_of(ask(site, stranger, token)) == (404, "weights_missing")
    old = site.token(manifest.digest, valid_s=-1)
    assert code_of(ask(site, blob_path(manifest), old)) == (401, "weights_token_expired")


def test_a_version_that_is_not_published_any_more_is_not_given_out(site, manifest):
    token = site.token(manifest.digest)
    assert ask(site, blob_path(manifest), token)[0] == 200
    site.store.delete_version(manifest.digest)
    assert code_of(ask(site, blob_path(manifest), token)) == (404, "weights_missing")


def test_a_version_with_a_damaged_blob_is_not_given_out(site, manifest):
    site.store.take_away(manifest.by_path()["model.safetensors"].digest, "0" * 64)
    answer = ask(site, blob_path(manifest), site.token(manifest.digest))
    assert code_of(answer) == (404, "weights_missing")


def test_a_range_that_cannot_be_is_refused_with_the_size(site, manifest):
    token = site.token(manifest.digest)
    answer = ask(site, blob_path(manifest), token, Range=f"bytes={len(BLOB)}-")
    assert code_of(answer) == (416, "range_not_satisfiable")
    assert answer[1]["Content-Range"] == f"bytes */{len(BLOB)}"


def test_other_methods_and_paths_are_refused(site, manifest):
    token = site.token(manifest.digest)
    for method in ("POST", "PUT", "DELETE"):
        assert ask(site, blob_path(manifest), token, method=method)[0] in (400, 405)
    for path in ("/", "/v1/versions", "/../etc/passwd", "//etc/passwd", "/v1/versions/x/manifest"):
        assert code_of(ask(site, path, token)) == (404, "not_found")
    assert ask(site, "/readyz")[0] == 200


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET / HTT",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\r\n\r\n",
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_of_ours_is_answered_once_and_hung_up_on(site, text):
    found = raw(site, text)
    assert found.startswith(b"HTTP/1.1 400 Bad Request")
    assert found.count(b"HTTP/1.1 400") == 1


def test_a_head_without_an_end_is_hung_up_on(site):
    assert raw(site, b"GET / HTTP/1.1\r\n", *[b"x" * 4096] * (HEAD_BYTES_MAX // 4096 + 2)) == b""


def test_a_sender_of_a_byte_now_and_then_is_hung_up_on_in_time(site):
    began_s = time.monotonic()
    assert raw(site, *[b"G"] * 100, pause_s=0.05) == b""
    assert time.monotonic() - began_s < LIMIT_S


def test_idle_connections_keep_nobody_out_for_long(site, manifest):
    token = site.token(manifest.digest)
    idle = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(8)]
    deadline_s = time.monotonic() + LIMIT_S
    try:
        seen = set()
        while 206 not in seen:
            assert time.monotonic() < deadline_s, seen
            with contextlib.suppress(ConnectionError):
                answer = ask(site, blob_path(manifest), token, Range="bytes=0-0")
                seen.add(answer[0])
                assert answer[0] == 206 or code_of(answer) == (503, "weights_busy")
        assert 503 in seen
    finally:
        for one in idle:
            one.close()


def test_a_peer_that_takes_nothing_is_cut_and_its_place_given_to_another(site, manifest):
    token = site.token(manifest.digest)
    head = f"GET {blob_path(manifest)} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    lazy = []
    for _ in range(8):
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", site.port))
        peer.sendall(head * 20)
        lazy.append(peer)
    deadline_s = time.monotonic() + LIMIT_S
    try:
        while True:
            assert time.monotonic() < deadline_s
            with contextlib.suppress(ConnectionError):
                if ask(site, blob_path(manifest), token, Range="bytes=0-0")[0] == 206:
                    return
    finally:
        for one in lazy:
            one.close()


def test_without_a_thread_for_it_a_connection_is_told_to_come_again(site, manifest, monkeypatch):
    token = site.token(manifest.digest)

    class NoThread:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(server_module, "Thread", NoThread)
        seen = []
        for _ in range(20):
            with contextlib.suppress(ConnectionError):
                seen.append(code_of(ask(site, blob_path(manifest), token)))
    assert set(seen) == {(503, "weights_busy")}
    assert ask(site, blob_path(manifest), token, Range="bytes=0-0")[0] == 206
