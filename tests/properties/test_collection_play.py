"""Collection against syncs, publications and deletions in any order: nothing that is named or leased ever goes (W8).

Leases are taken at the worst moments too: between a collector's first look and its last question.
"""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from weighbridge.weights.digest import content_digest
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest

MEMORY = Path("/dev/shm")
"""Nothing here is about durability, and fsync is what takes the time."""
NAMES = st.integers(0, 2)
SETS = st.frozensets(NAMES, min_size=1, max_size=2)


def content(name: int) -> bytes:
    return b"weights %d" % name


class CollectionPlay(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.store = FilesystemStore(self.root)
        self.leases: set[str] = set()
        self.published: dict[str, Manifest] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def bring(self, name: int) -> str:
        """As a sync does: lease first, then look, then write what is missing."""
        digest = content_digest(content(name))
        self.leases.add(digest)
        if not self.store.has_blob(digest):
            staged = self.store.staging_file(f"sync/{name}")
            staged.write_bytes(content(name))
            self.store.publish_blob(staged, digest)
        return digest

    @rule(name=NAMES)
    def sync_a_file(self, name: int) -> None:
        self.bring(name)

    @rule(names=SETS)
    def finish_a_sync(self, names: Collection[int]) -> None:
        digests = {name: self.bring(name) for name in names}
        manifest = Manifest.of(
            FileEntry(f"{name}.bin", len(content(name)), digest) for name, digest in digests.items()
        )
        self.published[self.store.publish(manifest)] = manifest
        self.leases -= set(digests.values())

    @rule()
    def give_up_all_syncs(self) -> None:
        self.leases.clear()

    @rule(pick=st.randoms(use_true_random=False))
    def delete_a_version(self, pick: object) -> None:
        if self.published:
            version = pick.choice(sorted(self.published))
            del self.published[version]
            self.store.delete_version(version, leased=lambda: set(self.leases))

    @rule()
    def collect(self) -> None:
        self.store.collect_blobs(age_min_s=0, leased=lambda: set(self.leases))

    @rule(name=NAMES, asked=st.integers(1, 2))
    def collect_while_a_sync_leases(self, name: int, asked: int) -> None:
        """The lease comes just too late for the collector's `asked`-th question; the look at once after it."""
        digest = content_digest(content(name))
        seen: list[bool] = []
        questions = 0

        def leased() -> Collection[str]:
            nonlocal questions
            questions += 1
            answer = set(self.leases)
            if questions == asked:
                self.leases.add(digest)
                seen.append(self.store.has_blob(digest))
            return answer

        self.store.collect_blobs(age_min_s=0, leased=leased)
        if seen == [True]:
            assert self.store.has_blob(digest)
        elif digest in self.leases:
            self.bring(name)

    @rule(name=NAMES)
    def quarantine_a_blob(self, name: int) -> None:
        digest = content_digest(content(name))
        if not self.store.has_blob(digest):
            return
        damage = self.store.take_away(digest, "f" * 64)
        self.leases.discard(digest)
        for version in damage.versions:
            self.published.pop(version, None)
            assert version not in self.store.published()
        assert not self.store.has_blob(digest)

    @invariant()
    def what_is_named_or_leased_is_there(self) -> None:
        for digest in self.leases:
            assert self.store.blob_path(digest).read_bytes()
        for version, manifest in self.published.items():
            directory = self.store.version_dir(version)
            for entry in manifest.files:
                assert (directory / entry.path).stat().st_size == entry.size_bytes
                assert self.store.has_blob(entry.digest)
        assert not list((self.root / "aside").iterdir())


TestCollectionPlay = CollectionPlay.TestCase
TestCollectionPlay.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
