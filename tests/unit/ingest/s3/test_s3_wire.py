"""The wire: ranges over plain HTTP and TLS, connections kept and replaced, and refusals as botocore words them."""

import contextlib
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from s3_stub import S3Stub, etag_of, running_stub
from weighbridge.ingest.model import ListedObject, S3Prefix
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.reconciler import limits_of
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.faults import Reader, SourceError
from weighbridge.ingest.s3.source import Source
from weighbridge.ingest.s3.wire import WiredClient
from weighbridge.ingest.tls import opening
from weighbridge.ingest.tls.libssl import libssl
from weighbridge.settings import Settings

CONTENT = os.urandom(3 * 1024 * 1024 + 7)
KEY = "m/wei ghts+~é.bin"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return certificate_for(tmp_path, "127.0.0.1")


def certificate_for(directory: Path, address: str) -> Path:
    """A certificate and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stub")])
    now = datetime.fromtimestamp(time.time(), UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = directory / "stub.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def tls_stub(certificate: Path) -> Iterator[S3Stub]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with running_stub(context) as stub:
        stub.objects[KEY] = CONTENT
        yield stub


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with running_stub() as server:
        server.objects[KEY] = CONTENT
        yield server


def source_of(stub: S3Stub) -> Source:
    settings = Settings(s3_endpoint_url=stub.endpoint_url, sync_stall_s=0.5)
    reader = Reader(S3Prefix("acme", "m"), None, "")
    return Source(S3Access(settings), reader, limits_of(settings), Pulse(time.monotonic))


def read_all(source: Source) -> bytes:
    file = source.pin(ListedObject(KEY, 0, ""), "weights.bin")
    assert (file.size_bytes, file.etag) == (len(CONTENT), etag_of(CONTENT))
    return source.read(file, 0, file.size_bytes)


def client_of(stub: S3Stub) -> WiredClient:
    access = S3Access(Settings(s3_endpoint_url=stub.endpoint_url))
    return WiredClient(access.client(Reader(S3Prefix("acme", "m"), None, "")), "acme")


def test_ranges_come_whole_over_plain_http(stub: S3Stub) -> None:
    assert read_all(source_of(stub)) == CONTENT


@pytest.fixture(params=["native", "python"])
def either_tls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL called directly, and Python's `ssl` where that cannot be."""
    if request.param == "python":
        monkeypatch.setattr(opening, "libssl", lambda: None)
    elif libssl() is None:
        pytest.skip("this Python is not linked with an OpenSSL of its own")


@pytest.mark.usefixtures("either_tls")
def test_ranges_come_whole_over_tls(
    tls_stub: S3Stub, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    assert read_all(source_of(tls_stub)) == CONTENT


@pytest.mark.usefixtures("either_tls")
@pytest.mark.parametrize("fault", ["short", "reset", "503"])
def test_a_broken_answer_over_tls_is_asked_again(
    fault: str, tls_stub: S3Stub, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    tls_stub.fault = lambda asked, number: fault if number == 0 else ""
    assert read_all(source_of(tls_stub)) == CONTENT


@pytest.mark.usefixtures("either_tls")
def test_a_certificate_nobody_vouches_for_is_refused(tls_stub: S3Stub) -> None:
    with pytest.raises(SourceError) as refusal:
        read_all(source_of(tls_stub))
    assert refusal.value.code == "TLS"


@pytest.mark.usefixtures("either_tls")
@pytest.mark.parametrize("host", ["127.0.0.1", "bucket.example.com"])
def test_a_certificate_of_another_host_is_refused(host: str, tmp_path: Path) -> None:
    certificate = certificate_for(tmp_path, "127.0.0.2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with running_stub(context) as stub:
        port = int(stub.endpoint_url.rpartition(":")[2])
        raw = socket.create_connection(("127.0.0.1", port))
        with raw, pytest.raises(ssl.SSLCertVerificationError):
            opening.tls_of(str(certificate)).connect(raw, host, 5.0)


@pytest.mark.usefixtures("either_tls")
def test_a_server_that_is_silent_is_not_waited_for_for_ever(certificate: Path) -> None:
    tls = opening.tls_of(str(certificate))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        raw = socket.create_connection(silent.getsockname())
        with raw, pytest.raises(TimeoutError):
            tls.connect(raw, "127.0.0.1", 0.2)


@pytest.mark.usefixtures("either_tls")
@pytest.mark.parametrize("size", [1, 1024 * 1024])
def test_a_read_ends_with_its_time_and_with_its_connection(
    size: int, tls_stub: S3Stub, certificate: Path
) -> None:
    port = int(tls_stub.endpoint_url.rpartition(":")[2])
    raw = socket.create_connection(("127.0.0.1", port))
    connection = opening.tls_of(str(certificate)).connect(raw, "127.0.0.1", 5.0)
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.read_into(memoryview(bytearray(size)))
    raw.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(ConnectionError):
        assert connection.read_into(memoryview(bytearray(size))) == 0
    connection.close()
    with pytest.raises(OSError):
        connection.sendall(b"late")


def test_an_unusable_file_of_certificates_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    with pytest.raises(OSError, match=r"(?i)certificate"):
        opening.tls_of(str(tmp_path / "empty.pem"))


@pytest.mark.usefixtures("either_tls")
def test_the_last_answer_of_a_connection_comes_whole_over_tls(
    tls_stub: S3Stub, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    tls_stub.fault = lambda asked, number: "last answer"
    client = client_of(tls_stub)
    last = len(CONTENT) - 1
    asked = {"Range": f"bytes=0-{last}", "IfMatch": etag_of(CONTENT)}
    answer = client.get_object(Bucket="acme", Key=KEY, **asked)
    view = memoryview(bytearray(len(CONTENT)))
    assert answer["Body"].readinto(view) == len(CONTENT)
    answer["Body"].close()
    assert bytes(view) == CONTENT
    assert len(tls_stub.gets) == 1


def test_requests_share_connections_and_survive_their_end(stub: S3Stub) -> None:
    client = client_of(stub)
    etag = etag_of(CONTENT)
    seen = []
    # The stub hangs up instead of answering the third: on a kept connection that is no fault yet.
    stub.fault = lambda asked, number: "reset" if number == 2 else ""
    for _ in range(4):
        answer = client.get_object(Bucket="acme", Key=KEY, Range="bytes=0-9", IfMatch=etag)
        seen.append(answer["Body"].read())
        answer["Body"].close()
    assert seen == [CONTENT[:10]] * 4
    assert len(stub.gets) == 5
    assert stub.connections <= 4  # botocore opened one of them


def test_heads_share_a_connection(stub: S3Stub) -> None:
    client = client_of(stub)
    opened = stub.connections
    for _ in range(10):
        client.head_object(Bucket="acme", Key=KEY)
    assert stub.connections == opened + 1


@pytest.mark.parametrize("value", ["============", "A===========", "not base64!!", "short"])
def test_a_checksum_that_is_none_is_not_taken_for_one(value: str, stub: S3Stub) -> None:
    stub.head_members[KEY] = {"x-amz-checksum-crc64nvme": value}
    assert source_of(stub).pin(ListedObject(KEY, 0, ""), "weights.bin").checksum is None


@pytest.mark.parametrize("call", ["get_object", "head_object"])
def test_a_refusal_is_worded_as_botocores(call: str, stub: S3Stub) -> None:
    client = client_of(stub)
    request = {"Bucket": "acme", "Key": "m/no"}
    if call == "get_object":
        request |= {"Range": "bytes=0-1", "IfMatch": '"x"'}
    answers = []
    for asked in (client, client._client):
        with pytest.raises(ClientError) as refusal:
            getattr(asked, call)(**request)
        answers.append((refusal.value.response["Error"], refusal.value.operation_name))
    assert answers[0] == answers[1]
