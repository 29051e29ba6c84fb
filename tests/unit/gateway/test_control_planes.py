"""Whom a gateway asks for management: its own control plane first, others in turn, and never in a circle."""

from pathlib import Path

import pytest

from weighbridge.errors import SetupError
from weighbridge.gateway.proxy.control import ControlPlanes, control_addresses
from weighbridge.gateway.wire.upstream import Address
from weighbridge.settings import DataDir


def names(found: list[Address]) -> list[str]:
    return [Path(a.unix_path).name if a.unix_path else f"{a.host}:{a.port}" for a in found]


@pytest.fixture
def paths(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path)
    made.run.mkdir()
    return made


def test_without_any_the_one_that_may_come_is_tried(paths: DataDir) -> None:
    assert names(ControlPlanes(paths).addresses()) == ["control.sock"]


def test_those_elsewhere_are_asked_in_turn_and_after_those_here(paths: DataDir) -> None:
    planes = ControlPlanes(paths, control_addresses("http://one:8080, http://10.0.0.2,"))
    assert {tuple(names(planes.addresses())) for _ in range(4)} == {
        ("one:8080", "10.0.0.2:80"),
        ("10.0.0.2:80", "one:8080"),
    }
    paths.api_socket("api-1").touch()
    assert names(planes.addresses())[0] == "control-api-1.sock"
    assert len(planes.addresses()) == 3


def test_what_another_gateway_passes_on_goes_no_further_than_here(paths: DataDir) -> None:
    planes = ControlPlanes(paths, control_addresses("http://one:8080"))
    assert names(planes.addresses(forwarded=True)) == ["control.sock"]
    paths.control_socket.touch()
    assert names(planes.addresses(forwarded=True)) == ["control.sock"]


@pytest.mark.parametrize("urls", ["one:8080", "https://one:8443", "http://", "http://one/path"])
def test_what_is_no_address_is_refused(urls: str) -> None:
    with pytest.raises(SetupError, match="WEIGHBRIDGE_CONTROL_URLS"):
        control_addresses(urls)
