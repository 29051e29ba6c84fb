"""Workers and the control plane see the same generations and counts, and never a dead worker's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import weighbridge
from weighbridge.routing.acks import (
    WORKERS_MAX,
    GatewayView,
    WorkerColumn,
    clear_column,
    open_acks,
    sum_slot,
)

OTHER = """
import os, sys
from pathlib import Path
from weighbridge.routing.acks import WorkerColumn, open_acks
column = WorkerColumn(open_acks(Path(sys.argv[1])), 1, os.getpid())
column.counts[7] = 40
column.acknowledge(3, 4)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def view(tmp_path: Path) -> GatewayView:
    return GatewayView(open_acks(tmp_path / "acks"))


def test_nobody_acknowledges_when_nobody_lives(view):
    assert view.routes_acked() is None
    assert view.keys_acked() is None
    assert view.in_flight(0) == 0


def test_the_slowest_worker_s_generation_counts(view, tmp_path):
    memory = open_acks(tmp_path / "acks")
    quick, slow = (WorkerColumn(memory, number, os.getpid()) for number in (0, WORKERS_MAX - 1))
    assert view.routes_acked() == 0
    quick.acknowledge(9, 5)
    slow.acknowledge(8, 6)
    assert (view.routes_acked(), view.keys_acked()) == (8, 5)
    slow.close()
    assert (view.routes_acked(), view.keys_acked()) == (9, 5)


def test_in_flight_is_the_sum_of_what_is_held(view, tmp_path):
    memory = open_acks(tmp_path / "acks")
    first, second = (WorkerColumn(memory, number, os.getpid()) for number in (0, 1))
    with first.hold(5), first.hold(5), second.hold(5), second.hold(6):
        assert view.in_flight(5) == 3
        assert sum_slot(view.columns(), 6) == 1
    assert view.in_flight(5) == 0


def test_a_hold_ends_with_an_exception_too(view, tmp_path):
    column = WorkerColumn(open_acks(tmp_path / "acks"), 0, os.getpid())
    with pytest.raises(ZeroDivisionError), column.hold(1):
        raise ZeroDivisionError
    assert view.in_flight(1) == 0


def test_a_killed_worker_does_not_count_and_its_column_can_be_taken(view, tmp_path):
    path = tmp_path / "acks"
    source = str(Path(weighbridge.__file__).parents[1])
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path)],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"ready\n"
        assert view.in_flight(7) == 40
        assert view.live_columns() == [1]
        assert (view.routes_acked(), view.keys_acked()) == (3, 4)
    finally:
        other.kill()
        other.communicate()
    assert view.in_flight(7) == 0
    assert view.routes_acked() is None
    assert WorkerColumn(open_acks(path), 1, os.getpid()).counts[7] == 0


def test_clearing_a_column_leaves_its_neighbours(view, tmp_path):
    memory = open_acks(tmp_path / "acks")
    columns = [WorkerColumn(memory, number, os.getpid()) for number in range(3)]
    for column in columns:
        column.counts[4095] = 2
    clear_column(memory, 1)
    assert view.live_columns() == [0, 2]
    assert view.in_flight(4095) == 4


def test_a_file_of_another_layout_is_begun_anew(tmp_path):
    path = tmp_path / "acks"
    WorkerColumn(open_acks(path), 0, os.getpid()).counts[3] = 1
    with path.open("r+b") as file:
        file.write(b"WBACKS01")
    memory = open_acks(path)
    assert GatewayView(memory).live_columns() == []
    assert WorkerColumn(memory, 0, os.getpid()).counts[3] == 0
    assert path.read_bytes()[:8] != b"WBACKS01"


def test_a_file_that_another_process_is_making_is_left_to_it(tmp_path):
    path = tmp_path / "acks"
    first = open_acks(path)
    column = WorkerColumn(first, 0, os.getpid())
    column.acknowledge(2, 2)
    first[:8] = bytes(8)
    assert GatewayView(open_acks(path)).routes_acked() == 2


def test_a_reused_pid_is_not_the_worker(view, tmp_path):
    memory = open_acks(tmp_path / "acks")
    column = WorkerColumn(memory, 0, os.getpid())
    column._head = (os.getpid(), 1)
    column.acknowledge(5, 5)
    assert view.workers() == []


@pytest.mark.parametrize("number", [-1, WORKERS_MAX])
def test_a_column_out_of_range_is_refused(tmp_path, number):
    with pytest.raises(ValueError, match="is not in"):
        WorkerColumn(open_acks(tmp_path / "acks"), number, os.getpid())
