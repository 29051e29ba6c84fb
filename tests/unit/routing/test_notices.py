"""What the kernel tells of a directory, by real files."""

import asyncio

from weighbridge.routing.notices import told_of_new_files

LIMIT_S = 10.0


async def test_a_file_that_is_renamed_into_the_directory_is_told(tmp_path):
    new_file = asyncio.Event()
    with told_of_new_files(tmp_path, new_file.set) as told:
        assert told
        for number in range(3):
            (tmp_path / "new").write_text(str(number))
            (tmp_path / "new").rename(tmp_path / "table")
            await asyncio.wait_for(new_file.wait(), LIMIT_S)
            new_file.clear()


async def test_nothing_is_told_after_the_end(tmp_path):
    new_file = asyncio.Event()
    with told_of_new_files(tmp_path, new_file.set):
        pass
    (tmp_path / "new").touch()
    (tmp_path / "new").rename(tmp_path / "table")
    await asyncio.sleep(0.05)
    assert not new_file.is_set()


async def test_a_directory_that_cannot_be_watched_is_left_to_the_caller(tmp_path):
    with told_of_new_files(tmp_path / "nowhere", lambda: None) as told:
        assert not told
