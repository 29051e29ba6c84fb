"""Converted weights leave the disk with the version they were made of (V7)."""

from pathlib import Path

from weighbridge.engines.gguf.cache import sweep_converted

KEPT, DELETED, NEW = "a" * 64, "b" * 64, "c" * 64


def put(cache: Path, name: str) -> None:
    (cache / "gguf").mkdir(exist_ok=True)
    (cache / "gguf" / name).write_bytes(b"x")


def names(cache: Path) -> set[str]:
    return {path.name for path in (cache / "gguf").iterdir()}


def test_what_was_made_of_a_deleted_version_goes(tmp_path: Path) -> None:
    for digest in (KEPT, DELETED):
        for ending in ("v1.auto.gguf", "v1.float32.gguf", "v1.auto.partial", "v1.auto.gguf.lock"):
            put(tmp_path, f"{digest}.{ending}")
    put(tmp_path, "README")
    assert sweep_converted(tmp_path, lambda: {KEPT}) == 4
    left = {name for name in names(tmp_path) if not name.startswith(KEPT)}
    assert left == {"README"}
    assert len(names(tmp_path)) == 5


def test_what_is_converted_while_the_sweep_looks_around_stays(tmp_path: Path) -> None:
    put(tmp_path, f"{KEPT}.v1.auto.gguf")

    def published() -> set[str]:
        put(tmp_path, f"{NEW}.v1.auto.gguf")
        return {KEPT}

    assert sweep_converted(tmp_path, published) == 0
    assert len(names(tmp_path)) == 2


def test_without_a_cache_there_is_nothing_to_sweep(tmp_path: Path) -> None:
    assert sweep_converted(tmp_path, set) == 0
