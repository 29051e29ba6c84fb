"""The directory of a cluster's node in the temporary one, which every user of the machine can write to."""

import os
import stat
from pathlib import Path

import pytest

from weighbridge.runtimes.ray.node_dir import NODE_DIR_VARIABLE, node_dir

UID = os.geteuid()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_directory_is_made_for_one_user_alone_and_found_again(tmp_path):
    made = node_dir({}, tmp_path, UID)
    assert (made.parent, mode(made)) == (tmp_path, 0o700)
    (made / "logs").mkdir()
    assert node_dir({}, tmp_path, UID) == made
    assert (made / "logs").is_dir()


def test_one_of_ours_that_others_can_read_is_closed_to_them(tmp_path):
    made = node_dir({}, tmp_path, UID)
    made.chmod(0o755)
    assert node_dir({}, tmp_path, UID) == made
    assert mode(made) == 0o700


def test_what_an_operator_chose_is_left_as_it_is(tmp_path):
    chosen = tmp_path / "chosen"
    assert node_dir({NODE_DIR_VARIABLE: str(chosen)}, tmp_path, UID) == chosen
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["directory of another user", "open directory", "link", "file"])
def test_a_name_that_somebody_has_taken_is_refused_with_what_to_do(tmp_path, taken):
    uid = UID + 1 if taken == "directory of another user" else UID
    path = tmp_path / f"weighbridge-node-{uid}"
    if taken == "file":
        path.touch()
    elif taken == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "theirs")
    else:
        path.mkdir()
        path.chmod(0o777 if taken == "open directory" else 0o700)
    with pytest.raises(PermissionError, match=f"{path} .*{NODE_DIR_VARIABLE}"):
        node_dir({}, tmp_path, uid)
