"""Which api the gateway asks next: each in turn, those that hang last."""

from pathlib import Path

from weighbridge.gateway.proxy.control import SHUNNED_S, ControlPlanes
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
