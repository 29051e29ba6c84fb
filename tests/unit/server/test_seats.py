"""Roles: which processes they are, what each is called, and what is refused."""

from pathlib import Path

import pytest

from weighbridge.errors import SetupError
from weighbridge.server.roles.model import Role, Seat, read_roles, read_seat, seat_for
from weighbridge.server.roles.processes import services
from weighbridge.server.roles.serve import serve
from weighbridge.settings import Settings

BOTH = frozenset({Role.API, Role.CONTROLLER})
URL = "postgresql://nobody@127.0.0.1:1/none"


def test_a_control_process_without_arguments_is_both() -> None:
    assert read_seat([]) == Seat("control", BOTH)
    assert read_seat(Seat("api-2", frozenset({Role.API})).argv()).name == "api-2"


@pytest.mark.parametrize(("text", "name"), [("api", "api"), ("controller", "controller")])
def test_a_role_alone_gives_its_name(text: str, name: str) -> None:
    assert seat_for(read_roles(text), None) == Seat(name, frozenset({Role(text)}))


@pytest.mark.parametrize("text", ["", "boss", "api,boss", "api;controller"])
def test_a_word_that_is_no_role_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="the roles are agent, gateway, api, controller"):
        read_roles(text)


@pytest.mark.parametrize("name", ["", "agent", "supervisor", "../x", "A", "x" * 32])
def test_a_name_that_is_another_s_or_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(SetupError):
        Seat(name, BOTH)


def test_each_role_is_the_process_that_up_starts(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    everything = services(settings, URL)
    assert [one.name for one in everything] == ["agent", "gateway", "control"]
    for role, service in zip(("agent", "gateway"), everything, strict=False):
        assert services(settings, None, {Role(role)})[0].argv == service.argv
    api = services(settings, URL, {Role.API}, seat_for({Role.API}, "api-1"))
    assert [one.name for one in api] == ["api-1"]
    assert URL not in api[0].argv
    assert api[0].env["WEIGHBRIDGE_DATABASE_URL"] == URL


def test_the_weight_server_runs_where_nodes_of_a_cluster_come_for_versions(tmp_path: Path) -> None:
    ray = {"data_dir": tmp_path, "runtime": "ray", "ray_address": "10.0.0.1:6379"}
    pulling = Settings(**ray, weights_host="10.0.0.2")
    assert [one.name for one in services(pulling, URL)] == ["weights", "gateway", "control"]
    assert services(pulling, None, {Role.WEIGHTS})[0].argv[-1] == "weighbridge.server.roles.weights"
    for other in (
        Settings(data_dir=tmp_path),
        Settings(**ray, ray_weights="path"),
        Settings(**ray, store_url="s3://operators-store/w"),
    ):
        assert services(other, None, {Role.WEIGHTS}) == []
        assert "weights" not in [one.name for one in services(other, URL)]


def test_a_gateway_has_a_courier_where_it_has_a_database_and_no_controller_beside_it(
    tmp_path: Path,
) -> None:
    def argv(*roles: Role, **changes: object) -> list[str]:
        settings = Settings(data_dir=tmp_path, **changes)
        found = {one.name: one for one in services(settings, None, roles)}
        return list(found["gateway"].argv)

    assert argv(Role.GATEWAY, database_url=URL)[-1] == "--courier"
    assert "--courier" in argv(Role.GATEWAY, Role.AGENT, database_url=URL)
    assert "--courier" not in argv(Role.GATEWAY)
    assert "--courier" not in argv(*Role, database_url=URL)
    assert URL not in argv(Role.GATEWAY, database_url=URL)


def test_each_api_has_a_socket_of_its_own(tmp_path: Path) -> None:
    paths = Settings(data_dir=tmp_path).paths
    paths.run.mkdir()
    for name in ("control", "api-1", "api-2"):
        paths.api_socket(name).touch()
    assert [path.name for path in paths.api_sockets()] == [
        "control-api-1.sock",
        "control-api-2.sock",
        "control.sock",
    ]


def test_an_api_without_a_database_of_the_team_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="WEIGHBRIDGE_DATABASE_URL"):
        serve(Settings(data_dir=tmp_path), {Role.API}, name=None, on_event=print)
    with pytest.raises(SetupError, match="Only a control process"):
        serve(Settings(data_dir=tmp_path), {Role.AGENT}, name="x", on_event=print)


def test_the_name_under_which_leases_are_taken_tells_machines_starts_directories_and_seats_apart():
    names = {
        Seat(name, BOTH).holder(host, boot_id, Path(root))
        for name in ("control", "control-2")
        for host in ("one", "two")
        for boot_id in ("b1", "b2")
        for root in ("/var/lib/weighbridge", "/srv/weighbridge")
    }
    assert len(names) == 16
