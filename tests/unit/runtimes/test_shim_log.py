"""The log that a shim writes: bounded, newest last, and never the engine's problem."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.runtimes.shim import CappedLog


@settings(deadline=None)  # it writes files, and a busy disk is no failure
@given(st.lists(st.binary(max_size=50), max_size=60), st.integers(min_value=2, max_value=80))
def test_it_keeps_the_newest_bytes_within_its_limit(chunks, bytes_max):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "r.log"
        log = CappedLog(path, bytes_max)
        for chunk in chunks:
            log.write(chunk)
        log.close()
        files = [path.with_name("r.log.1"), path]
        kept = b"".join(file.read_bytes() for file in files if file.exists())
    half = bytes_max // 2
    written = b"".join(chunk[-half:] for chunk in chunks)
    assert written.endswith(kept)
    assert min(len(written), half) <= len(kept) <= bytes_max


def test_a_directory_that_is_gone_costs_lines_and_raises_nothing(tmp_path):
    log = CappedLog(tmp_path / "gone" / "r.log", 100)
    log.write(b"lost")
    assert list(tmp_path.iterdir()) == []
