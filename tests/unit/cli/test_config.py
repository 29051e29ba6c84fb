import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.cli import config
from weighbridge.cli.output import plain
from weighbridge.sdk import ConfigurationError

PROFILE = {"base_url": "https://a.test", "org": "acme", "api_key": "wb_mgmt_filed"}


def connect(profile=PROFILE, environ=None, base_url=None, api_key=None):
    return config.connection(profile, environ or {}, base_url=base_url, api_key=api_key)


def test_options_win_over_variables_and_variables_over_the_file():
    environ = {"WEIGHBRIDGE_API_KEY": "wb_mgmt_env", "WEIGHBRIDGE_ORG": "other"}
    assert connect().api_key == "wb_mgmt_filed"
    assert connect(environ=environ).api_key == "wb_mgmt_env"
    assert connect(environ=environ).org == "other"
    assert connect(environ=environ, api_key="wb_mgmt_option").api_key == "wb_mgmt_option"


def test_a_key_of_the_file_goes_to_no_other_server():
    assert connect(base_url="https://b.test").api_key is None
    assert connect(environ={"WEIGHBRIDGE_BASE_URL": "https://b.test"}).api_key is None
    assert connect(base_url="https://a.test/").api_key == "wb_mgmt_filed"


def test_the_key_option_stands_in_for_every_kind():
    found = connect({}, api_key="wb_any_k")
    assert {found.api_key, found.admin_key, found.inference_key} == {"wb_any_k"}


@given(
    st.dictionaries(
        st.sampled_from(sorted(config.NAMES)), st.text(min_size=1).map(plain).filter(bool)
    )
)
def test_a_profile_is_read_as_it_was_written(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("profile") / "deep" / "config.toml"
    config.write_profile(path, members)
    assert config.read_profile(path) == members
    assert path.stat().st_mode & 0o777 == 0o600


def test_keys_of_two_servers_are_never_mixed():
    found = config.with_keys(PROFILE, "https://a.test/", {"admin_key": "k"})
    assert (found["admin_key"], found["api_key"]) == ("k", "wb_mgmt_filed")
    assert config.with_keys({}, "https://b.test", {})["base_url"] == "https://b.test"
    with pytest.raises(ConfigurationError, match="WEIGHBRIDGE_CONFIG"):
        config.with_keys(PROFILE, "https://b.test", {})


def test_a_key_is_set_from_stdin_and_shown_masked(bare, profile, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("wb_admin_k1_SECRET\n"))
    assert bare("config", "set", "admin_key").code == 0
    assert bare("config", "set", "base_url", "https://a.test").code == 0
    run = bare("config", "show")
    assert "wb_admin_k1_…" in run.out
    assert "SECRET" not in run.out
    assert bare("config", "unset", "admin_key").code == 0
    assert "SECRET" not in profile.read_text()


def test_a_key_on_the_command_line_is_refused_without_repeating_it(bare, profile):
    run = bare("config", "set", "api_key", "wb_mgmt_k1_SECRET")
    assert run.code == 2
    assert "SECRET" not in run.err + run.out
    assert not profile.exists()


def test_an_unknown_name_is_a_usage_error(bare):
    assert bare("config", "set", "colour", "red").code == 2


def test_an_unreadable_profile_is_named(bare, profile):
    profile.parent.mkdir(parents=True)
    profile.write_text("= nonsense")
    run = bare("config", "show")
    assert run.code == 78
    assert str(profile) in run.err


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("org", "acme", "acme"),
        ("api_key", "wb_mgmt_id_secret", "wb_mgmt_id_…"),
        ("api_key", "secret", "…"),
    ],
)
def test_masked(name, value, shown):
    assert config.masked(name, value) == shown


def test_keys_of_one_server_are_never_sent_to_the_next(bare, monkeypatch):
    for url in ("https://a.test", "https://a.test/"):
        assert bare("config", "set", "base_url", url).code == 0
        monkeypatch.setattr("sys.stdin", io.StringIO("wb_admin_k1_SECRET\n"))
        assert bare("config", "set", "admin_key").code == 0
        assert "wb_admin_k1" in bare("config", "show").out
    run = bare("config", "set", "base_url", "https://b.test")
    assert "admin_key" in run.err
    assert "wb_admin_k1" not in bare("config", "show").out
