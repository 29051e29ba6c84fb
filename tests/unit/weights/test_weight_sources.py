"""What nodes are told of a version's weights, and what a pull says of itself."""

import pytest

from weighbridge.errors import NotFoundError, SetupError
from weighbridge.replicas.weights.ways import pulled, sources
from weighbridge.settings import Settings
from weighbridge.telemetry.logs import redact
from weighbridge.weights.node.pull import Pull
from weighbridge.weights.node.source import StoppedError, WeightSource
from weighbridge.weights.served.address import weights_host, weights_url
from weighbridge.weights.served.tokens import check_token

DIGEST = "a" * 64
RAY = {"runtime": "ray", "ray_address": "127.0.0.1:6379"}


def test_a_replica_is_told_of_the_server_with_a_token_for_its_version_alone() -> None:
    settings = Settings(**RAY, weights_host="10.0.0.2", node_cache_bytes_max=5)
    told = pulled(lambda _: None, sources(settings, b"pepper", lambda: 1000.0))(DIGEST, 10)
    assert (told.digest, told.size_bytes, told.path) == (DIGEST, 10, "")
    assert told.source is not None
    assert (told.source.url, told.source.cache_bytes_max) == ("http://10.0.0.2:8082", 5)
    check_token(b"pepper", told.source.token, DIGEST, 1000.0)
    assert told.source.token not in repr(told)
    assert told.source.token not in redact(f"x {told.source.token} y")


def test_of_a_bucket_nodes_get_a_key_of_their_own_and_no_token() -> None:
    settings = Settings(
        **RAY,
        store_url="s3://operators-store/w",
        store_access_key_id="writer",
        store_secret_access_key="s3cret-of-the-writer",
        node_store_access_key_id="reader",
        node_store_secret_access_key="s3cret-of-the-reader",
    )
    source = sources(settings, b"pepper", lambda: 0.0)(DIGEST, 1)
    assert (source.url, source.token) == ("s3://operators-store/w", "")
    assert (source.access_key_id, source.secret_access_key) == ("reader", "s3cret-of-the-reader")
    assert "s3cret" not in repr(source)


def test_no_token_is_made_for_what_is_not_published() -> None:
    def absent(digest: str) -> None:
        raise NotFoundError(digest)

    def never(digest: str, size_bytes: int) -> WeightSource:
        raise AssertionError

    with pytest.raises(NotFoundError):
        pulled(absent, never)(DIGEST, 1)


def test_the_server_listens_where_the_cluster_is_unless_it_is_told_where() -> None:
    assert weights_url(Settings(**RAY)) == "http://127.0.0.1:8082"
    assert weights_host(Settings(**RAY, ray_node_ip="127.0.0.20")) == "127.0.0.20"
    assert weights_url(Settings(**RAY, weights_host="::1", weights_port=9)) == "http://[::1]:9"
    behind = Settings(**RAY, weights_host="0.0.0.0", weights_url="https://weights.example/a/")
    assert weights_url(behind) == "https://weights.example/a"
    with pytest.raises(SetupError, match="WEIGHBRIDGE_WEIGHTS_URL"):
        weights_url(Settings(**RAY, weights_host="0.0.0.0"))
    with pytest.raises(SetupError, match="WEIGHBRIDGE_WEIGHTS_HOST"):
        weights_host(Settings(runtime="ray", ray_address="no-such-host.invalid:6379"))


def test_a_pull_says_how_far_it_is_how_fast_and_what_holds_it_up() -> None:
    now_s = 100.0
    pull = Pull(DIGEST, 15_000_000_000, WeightSource("http://x"), lambda: now_s)
    assert pull.words() == "pulling 0.0 of 15.0 GB"
    pull.begin(14_000_000_000)
    pull.found(1_000_000_000)
    pull.came(2_100_000_000)
    now_s = 105.0
    assert pull.words() == "pulling 3.1 of 14.0 GB at 0.42 GB/s"
    pull.trouble = "No room on the node (weights_no_room)"
    assert pull.words() == "pulling 3.1 of 14.0 GB; No room on the node (weights_no_room)"
    pull.came(1)
    assert not pull.trouble
    pull.stop()
    with pytest.raises(StoppedError):
        pull.wait(60.0)
