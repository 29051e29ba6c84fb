"""Whom a gateway asks for management: each in turn, its own first, those that hang last, and never in a circle."""

from pathlib import Path

import pytest

from weighbridge.errors import SetupError
from weighbridge.gateway.proxy.control import SHUNNED_S, ControlPlanes, control_addresses
from weighbridge.gateway.wire.upstream import Address
from weighbridge.settings import DataDir


def planes_of(root: Path, *names: str) -> ControlPlanes:
    paths = DataDir(root)
    paths.run.mkdir(parents=True)
    for name in names:
        paths.api_socket(name).touch()
    return ControlPlanes(paths)


def order(planes: ControlPlanes, now_s: float) -> list[str]:
    return [Path(one.unix_path).stem for one in planes.addresses(now_s)]


def test_each_is_asked_in_turn(tmp_path: Path) -> None:
    planes = planes_of(tmp_path, "a", "b", "c")
    firsts = [order(planes, 0.0)[0] for _ in range(6)]
    assert sorted(firsts) == [f"control-{name}" for name in ("a", "a", "b", "b", "c", "c")]


def test_one_that_was_silent_is_asked_last_until_it_answers_or_its_time_is_over(
    tmp_path: Path,
) -> None:
    planes = planes_of(tmp_path, "a", "b")
    (silent,) = [one for one in planes.addresses(0.0) if one.unix_path.endswith("-a.sock")]
    planes.is_silent(silent, 0.0)
    assert {tuple(order(planes, 1.0)) for _ in range(4)} == {("control-b", "control-a")}
    assert {order(planes, SHUNNED_S)[0] for _ in range(4)} == {"control-a", "control-b"}
    planes.is_silent(silent, 100.0)
    planes.answers(silent)
    assert {order(planes, 101.0)[0] for _ in range(4)} == {"control-a", "control-b"}


def test_without_any_socket_the_usual_one_is_tried(tmp_path: Path) -> None:
    assert order(ControlPlanes(DataDir(tmp_path)), 0.0) == ["control"]


def names(found: list[Address]) -> list[str]:
    return [Path(a.unix_path).name if a.unix_path else f"{a.host}:{a.port}" for a in found]


def test_those_elsewhere_are_asked_in_turn_and_after_those_here(paths: DataDir) -> None:
    planes = ControlPlanes(paths, control_addresses("http://one:8080, http://10.0.0.2,"))
    assert {tuple(names(planes.addresses(0.0))) for _ in range(4)} == {
        ("one:8080", "10.0.0.2:80"),
        ("10.0.0.2:80", "one:8080"),
    }
    paths.api_socket("api-1").touch()
    assert names(planes.addresses(0.0))[0] == "control-api-1.sock"
    assert len(planes.addresses(0.0)) == 3


def test_what_another_gateway_passes_on_goes_no_further_than_here(paths: DataDir) -> None:
    planes = ControlPlanes(paths, control_addresses("http://one:8080"))
    assert names(planes.addresses(0.0, forwarded=True)) == ["control.sock"]
    paths.control_socket.touch()
    assert names(planes.addresses(0.0, forwarded=True)) == ["control.sock"]


def test_one_elsewhere_that_was_silent_is_asked_last_too(paths: DataDir) -> None:
    planes = ControlPlanes(paths, control_addresses("http://one:8080,http://two:8080"))
    planes.is_silent(planes.addresses(0.0)[0], 0.0)
    assert len({tuple(names(planes.addresses(1.0))) for _ in range(4)}) == 1
    assert len({tuple(names(planes.addresses(SHUNNED_S))) for _ in range(4)}) == 2


@pytest.mark.parametrize("urls", ["one:8080", "https://one:8443", "http://", "http://one/path"])
def test_what_is_no_address_is_refused(urls: str) -> None:
    with pytest.raises(SetupError, match="WEIGHBRIDGE_CONTROL_URLS"):
        control_addresses(urls)
