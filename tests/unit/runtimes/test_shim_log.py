"""The log that a shim writes: bounded, newest last, and never the engine's problem."""

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.runtimes.shim import CappedLog


@given(
    st.lists(st.binary(min_size=0, max_size=50), max_size=60),
    st.integers(min_value=2, max_value=80),
)
def test_it_keeps_the_newest_bytes_within_its_limit(tmp_path_factory, chunks, bytes_max):
    path = tmp_path_factory.mktemp("log") / "r.log"
    log = CappedLog(path, bytes_max)
    for chunk in chunks:
        log.write(chunk)
    files = [path.with_name("r.log.1"), path]
    kept = b"".join(file.read_bytes() for file in files if file.exists())
    assert len(kept) <= bytes_max
    written = b"".join(chunk[-(bytes_max // 2) :] for chunk in chunks)
    assert written.endswith(kept)
    assert len(kept) >= min(len(written), 1)
    log.close()


def test_a_directory_that_is_gone_costs_lines_and_raises_nothing(tmp_path):
    log = CappedLog(tmp_path / "gone" / "r.log", 100)
    log.write(b"lost")
    assert list(tmp_path.iterdir()) == []
