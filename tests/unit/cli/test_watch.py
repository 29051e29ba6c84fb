"""Live views show what the answers say; on a terminal as a view, elsewhere as lines."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from weighbridge.cli.output import Output, quantity
from weighbridge.cli.watch import RolloutView, SyncView, replica_counts, sync_line
from weighbridge.sdk import Deployment, ModelVersion, NotFoundError, Replica


@pytest.fixture
def screen():
    """An output whose stderr is a terminal of ours."""
    output = Output(as_json=False)
    output.err = Console(
        file=io.StringIO(), force_terminal=True, width=120, markup=False, highlight=False
    )
    return output


def shown(output):
    return output.err.file.getvalue()


def version(done, **more):
    progress = {"step": "fetch", "bytes_total": 2_000_000, "bytes_done": 1_000_000, **more}
    response = {
        "customer_s3_uri": "s3://b/p",
        "sync_status": "done" if done else "in_progress",
        "progress": progress,
    }
    name = "orgs/acme/models/llama/versions/2"
    return ModelVersion.read({"name": name, "done": done, "response": response})


def deployment(state, updated):
    return Deployment.read(
        {
            "id": "d1",
            "endpoint_id": "chat",
            "model": "orgs/acme/models/llama/versions/2",
            "created": 1,
            "state": state,
            "updated_replicas": updated,
            "total_replicas": 2,
        }
    )


def replica(number, state, version_id):
    return Replica.read(
        {
            "id": f"r{number}",
            "endpoint_id": "chat",
            "deployment_id": "d1",
            "version_id": version_id,
            "state": state,
            "created": 1,
        }
    )


def session(output, list_replicas, admin_key="wb_admin_k"):
    admin = SimpleNamespace(replicas=SimpleNamespace(list=list_replicas))
    return SimpleNamespace(
        output=output,
        client=SimpleNamespace(admin=admin),
        connection=SimpleNamespace(admin_key=admin_key),
    )


def test_a_sync_is_a_bar_with_its_step_and_bytes(screen):
    with SyncView(screen) as view:
        view(version(done=False))
    assert "fetch" in shown(screen)
    assert "1.0/2.0 MB" in shown(screen)


def test_a_rollout_shows_counters_and_replicas(screen):
    found = [replica(1, "ready", 1), replica(2, "ready", 1), replica(3, "starting", 2)]
    with RolloutView(session(screen, lambda _: found)) as view:
        view(deployment("in_progress", 1))
    assert "1 of 2 replicas updated" in shown(screen)
    assert "starting" in shown(screen)


def test_a_rollout_is_followed_without_replicas_where_they_may_not_be_seen(screen):
    calls = []

    def refused(endpoint_id):
        calls.append(endpoint_id)
        raise NotFoundError("no", status=404)

    with RolloutView(session(screen, refused)) as view:
        view(deployment("in_progress", 0))
        view(deployment("done", 2))
    assert calls == ["chat"]
    assert "done, 2 of 2" in shown(screen)


def test_without_a_terminal_a_line_is_said_once(capsys):
    with RolloutView(session(Output(as_json=False), None, admin_key=None)) as view:
        for _ in range(3):
            view(deployment("in_progress", 1))
    assert capsys.readouterr().err == "version 2: rolling out, 1 of 2 replicas updated\n"


def test_replicas_are_counted_by_version_and_state():
    found = [replica(1, "ready", 1), replica(2, "ready", 1), replica(3, "stopped", 1)]
    (row,) = zip(*(column.cells for column in replica_counts(found).columns), strict=True)
    assert row == ("1", "ready", "2")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_700_000, "2.7 MB"), (5 * 10**12, "5.0 TB")],
)
def test_quantity(size_bytes, text):
    assert quantity(size_bytes) == text


def test_a_sync_shows_the_servers_own_rate_rest_and_retries(screen):
    moving = version(False, bytes_per_s=12_500_000, eta_s=150, retries=2)
    assert sync_line(moving).endswith("12.5 MB/s, 2 min left, 2 retries")
    with SyncView(screen) as view:
        view(moving)
    assert "12.5 MB/s, 2 min left, 2 retries" in shown(screen)
