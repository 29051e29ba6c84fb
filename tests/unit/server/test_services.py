"""When a service is started again, whether it is the same one, and its log."""

import pytest

from weighbridge.errors import SetupError
from weighbridge.server.roles.model import Role
from weighbridge.server.roles.processes import services
from weighbridge.server.roles.serve import serve
from weighbridge.server.service_logs import cap_log, last_lines
from weighbridge.server.services import RestartPolicy, Service, fingerprint
from weighbridge.settings import Settings

POLICY = RestartPolicy()


def test_the_delay_doubles_with_each_exit_in_a_row_up_to_its_limit():
    delays = [POLICY.delay_s([0.0] * exits) for exits in (1, 2, 3, 4, 50)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 5.0]


def test_five_exits_within_half_a_minute_are_hopeless_and_fewer_are_not():
    assert POLICY.is_hopeless([0, 5, 10, 15, 20], now_s=20)
    assert not POLICY.is_hopeless([0, 5, 10, 15], now_s=20)
    assert not POLICY.is_hopeless([0, 10, 20, 30, 40], now_s=40)


def test_a_service_is_the_same_while_command_settings_and_version_are():
    service = Service("a", ["x"], {"K": "1"})
    same = fingerprint(service, "1.0")
    others = [
        fingerprint(service, "1.1"),
        fingerprint(Service("a", ["x", "y"], {"K": "1"}), "1.0"),
        fingerprint(Service("a", ["x"], {"K": "2"}), "1.0"),
    ]
    assert len({same, *others}) == 4


def test_a_setting_of_the_control_plane_leaves_the_engines_keeper_the_same(tmp_path, monkeypatch):
    """The node agent holds the engines: it is replaced only for a setting that it reads itself."""

    def marks(**changes: object) -> dict[str, str]:
        parts = services(Settings(data_dir=tmp_path, **changes), "postgresql://db")
        return {part.name: fingerprint(part, "1.0") for part in parts}

    before = marks()
    monkeypatch.setenv("WEIGHBRIDGE_BAKE_S", "7")
    after = marks()
    assert after["agent"] == before["agent"]
    assert after["control"] != before["control"]
    assert marks(replica_slots=3)["agent"] != before["agent"]


def test_a_secret_setting_reaches_its_service_as_it_is(tmp_path):
    names = [
        name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)
    ]
    assert "database_url" in names
    secret = {name: f"postgresql://secret-{name}" for name in names}
    control = services(Settings(data_dir=tmp_path, **secret), "postgresql://db")[-1]
    for name in set(names) - {"database_url"}:
        assert control.env[f"WEIGHBRIDGE_{name.upper()}"] == secret[name]


def test_a_log_that_is_too_long_keeps_its_newest_half_beside_it(tmp_path):
    path = tmp_path / "a.log"
    with path.open("ab") as writer:
        writer.write(b"a" * 60 + b"b" * 60)
        writer.flush()
        cap_log(path, 100)
        writer.write(b"next")
    assert path.read_bytes() == b"next"
    assert path.with_name("a.log.1").read_bytes() == b"b" * 50
    cap_log(path, 100)
    assert path.read_bytes() == b"next"
    cap_log(tmp_path / "absent.log")


def test_the_last_lines_are_those_of_this_start(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("old\nnew 1\n\nnew 2\n")
    assert last_lines(path, 5, from_byte=4) == ["new 1", "new 2"]
    assert last_lines(path, 1, from_byte=0) == ["new 2"]
    assert last_lines(tmp_path / "absent.log", 1, 0) == []


def test_a_role_that_cannot_take_over_says_so(tmp_path):
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(SetupError, match=r"One agent cannot take over .* A gateway can"):
        serve(settings, {Role.AGENT}, name=None, on_event=lambda _: None, take_over=True)
