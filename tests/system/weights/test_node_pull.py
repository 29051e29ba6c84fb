"""A node pulls a version from the weight server: killed, twice at once, onto a full disk, from a source that lies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from s3 import running_s3
from weighbridge.errors import (
    InvalidError,
    LimitError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from weighbridge.weights.digest import HASH_PART_BYTES
from weighbridge.weights.manifest import Manifest
from weighbridge.weights.node import puller as puller_module
from weighbridge.weights.node.cache import FILL_PREFIX
from weighbridge.weights.node.fetch import journal_of
from weighbridge.weights.node.pull import Pull
from weighbridge.weights.node.puller import NodePuller
from weighbridge.weights.node.source import StoppedError
from weighbridge.weights.served import server as server_module
from weight_site import MIB, WeightSite, content, in_bucket, publish, running_weights

pytestmark = pytest.mark.system

LIMIT_S = 30.0
FILES = {"config.json": b"{}", "empty": b"", "model.safetensors": content(5 * HASH_PART_BYTES // 2)}
PARTS = 3
"""Of the large file."""

_NODE = """
import json, sys, time
from pathlib import Path
from weighbridge.weights.node.pull import Pull
from weighbridge.weights.node.puller import NodePuller
from weighbridge.weights.node.source import WeightSource

root, digest, url, token, *more = sys.argv[1:]
pull = Pull(digest, 1, WeightSource(url, token, free_min_share=0.0))
path = NodePuller(Path(root)).bring(pull)
print(json.dumps({"path": str(path), "brought": pull.brought_bytes}), flush=True)
if more:
    sys.stdin.read()
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WeightSite]:
    with running_weights(tmp_path / "store") as found:
        yield found


@pytest.fixture
def given_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each answer of the server with a blob had."""
    found: list[int] = []
    real = server_module._send_file

    def note(peer, descriptor: int, start: int, end: int) -> None:
        found.append(end - start)
        real(peer, descriptor, start, end)

    monkeypatch.setattr(server_module, "_send_file", note)
    return found


@pytest.fixture
def slow_server(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Every answer with a blob waits so long, from when this is called."""
    real, pause = server_module._send_file, [0.0]

    def slowly(peer, descriptor: int, start: int, end: int) -> None:
        time.sleep(pause[0])
        real(peer, descriptor, start, end)

    monkeypatch.setattr(server_module, "_send_file", slowly)
    return lambda seconds: pause.__setitem__(0, seconds)


def assert_serves(path: Path, files: dict[str, bytes] = FILES) -> None:
    for name, expected in files.items():
        assert (path / name).read_bytes() == expected


def node_process(root: Path, site: WeightSite, digest: str, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _NODE, str(root), digest, site.url, site.token(digest), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def staged(root: Path, manifest: Manifest) -> Path:
    digest = manifest.by_path()["model.safetensors"].digest
    return root / "store/staging" / f"{FILL_PREFIX}{digest}"


def visible(root: Path) -> list[str]:
    return [path.name for path in (root / "store/versions").iterdir()]


def test_a_node_pulls_what_it_does_not_have_once(site, tmp_path, given_bytes):
    manifest = publish(site.store, FILES)
    puller, pull = NodePuller(tmp_path / "node"), site.pull(manifest)
    assert_serves(puller.bring(pull))
    assert pull.words().startswith("pulling 0.0 of 0.0 GB at")
    assert pull.brought_bytes == pull.came_bytes == pull.size_bytes == manifest.size_bytes
    assert sum(given_bytes) == manifest.size_bytes
    again = site.pull(manifest, token="of no use any more")
    assert_serves(puller.bring(again))
    assert sum(given_bytes) == manifest.size_bytes
    assert list((tmp_path / "node/store/staging").iterdir()) == []


def test_versions_that_share_files_bring_them_once(site, tmp_path, given_bytes):
    first = publish(site.store, FILES)
    second = publish(site.store, {**FILES, "config.json": b'{"second": true}'})
    puller = NodePuller(tmp_path / "node")
    puller.bring(site.pull(first))
    given_bytes.clear()
    pull = site.pull(second)
    puller.bring(pull)
    assert sum(given_bytes) == pull.brought_bytes == len(b'{"second": true}')
    assert pull.came_bytes == second.size_bytes


def test_a_pull_that_is_killed_shows_nothing_and_goes_on_where_it_was(
    site, tmp_path, given_bytes, slow_server
):
    manifest = publish(site.store, FILES)
    root = tmp_path / "node"
    journal = journal_of(staged(root, manifest))
    slow_server(0.3)
    process = node_process(root, site, manifest.digest)
    until(lambda: journal.exists() and journal.read_bytes().count(b" ") >= 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    noted = journal.read_bytes().count(b" ")
    assert 1 <= noted <= PARTS
    assert visible(root) == []
    slow_server(0.0)
    given_bytes.clear()
    pull = site.pull(manifest)
    assert_serves(NodePuller(root).bring(pull))
    assert len([size for size in given_bytes if size > MIB]) == PARTS - noted
    assert pull.came_bytes == manifest.size_bytes
    assert pull.brought_bytes == sum(given_bytes) < manifest.size_bytes


def test_a_part_that_changed_after_it_was_noted_is_fetched_again(
    site, tmp_path, slow_server, given_bytes
):
    manifest = publish(site.store, FILES)
    root = tmp_path / "node"
    file = staged(root, manifest)
    slow_server(0.3)
    process = node_process(root, site, manifest.digest)
    until(lambda: journal_of(file).exists() and journal_of(file).read_bytes().count(b" ") >= 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    slow_server(0.0)
    with file.open("r+b") as damaged:
        for part in range(PARTS):
            damaged.seek(part * HASH_PART_BYTES)
            damaged.write(b"not what was noted")
    journal_of(file).write_bytes(journal_of(file).read_bytes()[:-9])  # and the last line cut short
    given_bytes.clear()
    assert_serves(NodePuller(root).bring(site.pull(manifest)))
    assert len([size for size in given_bytes if size > MIB]) == PARTS


def test_of_two_replicas_on_a_node_one_pulls_and_both_use_it(site, tmp_path, given_bytes):
    manifest = publish(site.store, FILES)
    processes = [node_process(tmp_path / "node", site, manifest.digest) for _ in range(2)]
    said = [json.loads(one.communicate(timeout=LIMIT_S)[0].splitlines()[-1]) for one in processes]
    assert said[0]["path"] == said[1]["path"]
    assert_serves(Path(said[0]["path"]))
    assert sum(one["brought"] for one in said) == sum(given_bytes) == manifest.size_bytes


def test_three_threads_of_one_process_pull_once(site, tmp_path, given_bytes):
    manifest = publish(site.store, FILES)
    puller = NodePuller(tmp_path / "node")
    threads = [Thread(target=puller.bring, args=(site.pull(manifest),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert sum(given_bytes) == manifest.size_bytes


def refusal(puller: NodePuller, pull: Pull):
    with pytest.raises(
        (InvalidError, LimitError, NotFoundError, UnauthenticatedError, UnavailableError)
    ) as refused:
        puller.bring_once(pull)
    assert visible(puller.cache_dir.parent) == []
    return refused.value


def test_what_no_time_mends_ends_a_pull_with_a_stable_code(site, tmp_path):
    manifest = publish(site.store, FILES)
    puller, digest = NodePuller(tmp_path / "node"), manifest.digest
    expired = site.pull(manifest, token=site.token(digest, valid_s=-1))
    assert refusal(puller, expired).code == "weights_token_expired"
    wrong = site.pull(manifest, token=site.token("0" * 64))
    assert refusal(puller, wrong).code == "weights_token_wrong"
    with pytest.raises(UnauthenticatedError):
        puller.bring(wrong)
    absent = Pull("0" * 64, 1, site.source("0" * 64))
    assert refusal(puller, absent).code == "weights_missing"
    away = site.pull(manifest, url="http://127.0.0.1:9")
    assert refusal(puller, away).code == "weights_unreachable"


def test_bytes_that_are_not_what_their_name_says_are_never_shown(site, tmp_path):
    manifest = publish(site.store, FILES)
    blob = site.store.blob_path(manifest.by_path()["model.safetensors"].digest)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(HASH_PART_BYTES + 5)
        file.write(b"?")
    puller, pull = NodePuller(tmp_path / "node"), site.pull(manifest)
    assert refusal(puller, pull).code == "weights_wrong_digest"
    with blob.open("r+b") as file:
        file.seek(HASH_PART_BYTES + 5)
        file.write(FILES["model.safetensors"][HASH_PART_BYTES + 5 :][:1])
    assert_serves(puller.bring(site.pull(manifest)))


def test_a_blob_that_is_shorter_than_its_manifest_says_is_waited_for(site, tmp_path):
    manifest = publish(site.store, FILES)
    blob = site.store.blob_path(manifest.by_path()["model.safetensors"].digest)
    blob.chmod(0o644)
    os.truncate(blob, 100)
    refused = refusal(NodePuller(tmp_path / "node"), site.pull(manifest))
    assert refused.code == "weights_unreachable"


class SmallDisk(puller_module.FilesystemStore):
    capacity_bytes = 0

    def free_bytes(self) -> int:
        files = [path for path in self._root.rglob("*") if path.is_file()]
        inodes = {path.stat().st_ino: path.stat().st_blocks * 512 for path in files}
        return self.capacity_bytes - sum(inodes.values())

    def total_bytes(self) -> int:
        return self.capacity_bytes


def test_a_node_without_room_says_what_is_needed_and_what_it_has_and_waits(
    site, tmp_path, monkeypatch
):
    manifest = publish(site.store, FILES)
    monkeypatch.setattr(puller_module, "FilesystemStore", SmallDisk)
    monkeypatch.setattr(puller_module, "PAUSE_MIN_S", 0.01)
    monkeypatch.setattr(SmallDisk, "capacity_bytes", 10 * MIB)
    puller, pull = NodePuller(tmp_path / "node"), site.pull(manifest)
    refused = refusal(puller, pull)
    assert refused.code == "weights_no_room"
    assert "0.04 GB of weights are to come to this node, 0.01 GB are free" in refused.message
    found: list[Path] = []
    thread = Thread(target=lambda: found.append(puller.bring(pull)))
    thread.start()
    until(lambda: "(weights_no_room)" in pull.words())
    assert pull.words().startswith("pulling 0.0 of 0.0 GB; No room on the node: ")
    monkeypatch.setattr(SmallDisk, "capacity_bytes", 100 * MIB)
    thread.join(LIMIT_S)
    assert_serves(found[0])


def test_room_is_made_of_what_was_used_longest_ago_and_never_of_what_is_used(
    site, tmp_path, monkeypatch
):
    files = [{"w": content(4 * MIB)} for _ in range(4)]
    first, second, third, fourth = (publish(site.store, one) for one in files)
    root, limits = tmp_path / "node", {"cache_bytes_max": 10 * MIB}
    used = node_process(root, site, first.digest, "stay")
    assert any(line.startswith("{") for line in used.stdout)
    puller = NodePuller(root)
    made = puller.cache_dir / "gguf" / f"{second.digest}.v1.auto.gguf"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"made of it")
    puller.bring(site.pull(second, **limits))
    assert refusal_of_room(puller, site.pull(third, **limits)) == "weights_no_room"
    puller.release(second.digest)
    puller.release(third.digest)
    assert_serves(puller.bring(site.pull(third, **limits)), files[2])
    assert sorted(visible(root)) == sorted([first.digest, third.digest])
    assert not made.exists()
    used.communicate()
    puller.bring(site.pull(fourth, **limits))
    assert sorted(visible(root)) == sorted([third.digest, fourth.digest])


def refusal_of_room(puller: NodePuller, pull: Pull) -> str:
    with pytest.raises(LimitError) as refused:
        puller.bring_once(pull)
    return refused.value.code


def test_what_a_killed_pull_left_makes_room_for_another(site, tmp_path, slow_server):
    lost, wanted = publish(site.store, FILES), publish(site.store, {"w": content(MIB)})
    root = tmp_path / "node"
    slow_server(0.3)
    process = node_process(root, site, lost.digest)
    until(lambda: journal_of(staged(root, lost)).exists())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    slow_server(0.0)
    pull = site.pull(wanted, cache_bytes_max=10 * MIB)
    assert_serves(NodePuller(root).bring(pull), {"w": site_bytes(site, wanted)})
    assert list((root / "store/staging").iterdir()) == []


def site_bytes(site: WeightSite, manifest: Manifest) -> bytes:
    return site.store.blob_path(manifest.files[0].digest).read_bytes()


def test_a_pull_that_is_stopped_ends_soon_and_leaves_nothing_to_see(site, tmp_path, slow_server):
    manifest = publish(site.store, FILES)
    puller, pull = NodePuller(tmp_path / "node"), site.pull(manifest)
    slow_server(0.5)
    ended: list[BaseException] = []

    def bring() -> None:
        try:
            puller.bring(pull)
        except StoppedError as error:
            ended.append(error)

    thread = Thread(target=bring)
    thread.start()
    until(staged(tmp_path / "node", manifest).exists)
    pull.stop()
    thread.join(LIMIT_S)
    assert len(ended) == 1
    assert visible(tmp_path / "node") == []


def test_a_copy_that_rots_on_the_node_is_pulled_again_before_it_is_loaded(site, tmp_path):
    manifest = publish(site.store, FILES)
    puller = NodePuller(tmp_path / "node")
    path = puller.bring(site.pull(manifest)) / "model.safetensors"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"rot")
    assert_serves(NodePuller(tmp_path / "node").bring(site.pull(manifest)))


def test_a_node_pulls_the_same_from_a_bucket(site, tmp_path):
    manifest = publish(site.store, FILES)
    with running_s3() as s3:
        source = in_bucket(s3, site.store, manifest)
        pull = Pull(manifest.digest, 1, source)
        assert_serves(NodePuller(tmp_path / "node").bring(pull))
        assert pull.brought_bytes == manifest.size_bytes
    assert source.secret_access_key not in repr(pull)
