"""Identities, marks and locks of real processes."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from weighbridge.errors import SetupError
from weighbridge.runtimes.processes import (
    Mark,
    ProcessIdentity,
    Remembered,
    find_marked,
    hold_lock,
    identify,
    is_alive,
    lock_holder,
    send_signal,
)

LIMIT_S = 20.0
HALF_ENDED = """
import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print("running", flush=True)
ctypes.CDLL(None).syscall(60, 0)  # exit(2) ends this thread alone; exit_group(2) all
"""
SLOW_TO_END = """
import os, time
pages = os.memfd_create("pages")  # given back by the kernel only after the environment is
for _ in range(32):
    os.write(pages, bytes(16 << 20))
print("running", flush=True)
time.sleep(600)
"""
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


@pytest.fixture
def start():
    children = []

    def start(*argv, **options):
        children.append(subprocess.Popen(argv or SLEEPER, **options))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def _state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def eventually(condition):
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_process_that_ended_lives_no_more_even_before_it_is_reaped(start):
    child = start()
    identity = identify(child.pid)
    assert is_alive(identity)
    os.kill(child.pid, 9)
    eventually(lambda: not is_alive(identity))
    assert identify(child.pid) is None


def test_another_process_of_the_same_number_gets_no_signal(start):
    child = start()
    namesake = ProcessIdentity(child.pid, identify(child.pid).start_ticks - 1)
    send_signal(namesake, 9)
    assert is_alive(identify(child.pid))


def test_marks_are_inherited_and_found_by_home(start, tmp_path):
    mark = Mark(str(tmp_path), "engine", "r1", "abc", {"endpoint": "e"})
    program = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    parent = start(
        sys.executable, "-S", "-c", program, *SLEEPER, env=os.environ | mark.environment()
    )
    eventually(lambda: len(find_marked(tmp_path)) == 2)
    found = find_marked(tmp_path)
    assert {process.mark.labels["endpoint"] for process in found} == {"e"}
    assert parent.pid in [process.identity.pid for process in found]
    assert find_marked(tmp_path / "other") == []
    for process in found:
        send_signal(process.identity, 9)


def test_a_process_whose_first_thread_ended_lives_and_keeps_its_mark(start, tmp_path):
    mark = Mark(str(tmp_path), "engine", "r1").environment()
    child = start(sys.executable, "-c", HALF_ENDED, stdout=subprocess.PIPE, env=os.environ | mark)
    child.stdout.readline()
    eventually(lambda: _state(child.pid) == "Z")
    assert is_alive(identify(child.pid))
    assert [process.identity.pid for process in find_marked(tmp_path)] == [child.pid]
    child.kill()
    eventually(lambda: identify(child.pid) is None)


def test_what_was_found_once_is_waited_for_until_it_is_dead(start, tmp_path):
    mark = Mark(str(tmp_path), "engine", "r1").environment()
    child = start(sys.executable, "-c", SLOW_TO_END, stdout=subprocess.PIPE, env=os.environ | mark)
    child.stdout.readline()
    identity = identify(child.pid)
    remembered = Remembered(lambda: [process.identity for process in find_marked(tmp_path)])
    assert remembered.living() == [identity]
    child.kill()
    eventually(lambda: not remembered.living())
    assert not is_alive(identity)


def test_a_lock_names_its_holder_and_refuses_a_second_one(start, tmp_path):
    path = tmp_path / "run" / "a.lock"
    program = (
        "import sys, time; from pathlib import Path\n"
        "from weighbridge.runtimes.processes import hold_lock\n"
        "lock = hold_lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    )
    child = start(sys.executable, "-c", program, str(path), stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    assert lock_holder(path) == identify(child.pid)
    with pytest.raises(SetupError, match=f"process {child.pid} holds"):
        hold_lock(path)
    child.kill()
    child.wait()
    assert lock_holder(path) is None
    with hold_lock(path):
        assert lock_holder(path) == identify(os.getpid())
    assert lock_holder(path) is None


def test_looking_at_a_lock_never_keeps_anybody_from_taking_it(tmp_path):
    path = tmp_path / "a.lock"
    path.touch()
    stop = threading.Event()

    def look():
        while not stop.is_set():
            lock_holder(path)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            hold_lock(path).release()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
