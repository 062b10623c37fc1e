"""Settings: where they come from, who wins, and what is said of a wrong one."""

import os
from pathlib import Path

import pytest

from flowgroup.errors import Refused
from flowgroup.settings import (
    PrefectSettings,
    Settings,
    environment_for_relay,
    environment_for_user_code,
    spare_loopback,
    ui_of,
)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "FLOWGROUP_")):
            monkeypatch.delenv(name)


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "flowgroup.toml"
    file.write_text(
        '[daemon]\nslots = 1\npool = "from-file"\npoll_interval_s = 9\n[prefect]\napi_url = "http://file/api"\n'
    )
    monkeypatch.setenv("FLOWGROUP_CONFIG", str(file))
    monkeypatch.setenv("FLOWGROUP_SLOTS", "2")
    monkeypatch.setenv("FLOWGROUP_POOL", "from-environment")
    settings = Settings.read({"pool": "from-flag", "slots": None})
    assert (settings.daemon.pool, settings.daemon.slots, settings.daemon.poll_interval_s) == ("from-flag", 2, 9)
    assert settings.prefect.api_url == "http://file/api"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FLOWGROUP_SLOTS", "0", "FLOWGROUP_SLOTS"),
        ("FLOWGROUP_SLOTS", "many", "FLOWGROUP_SLOTS"),
        ("FLOWGROUP_BACKEND", "nomad", "FLOWGROUP_BACKEND"),
        ("PREFECT_API_URL", "localhost:4200", "http://"),
        ("PREFECT_CLIENT_CUSTOM_HEADERS", "{", "client_custom_headers"),
        ("FLOWGROUP_CONFIG", "/nowhere/x.toml", "FLOWGROUP_CONFIG"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=said):
        Settings.read()


@pytest.mark.parametrize("text", ["[deamon]\nslots = 1\n", "[daemon]\nslotz = 1\n", "not toml"])
def test_a_wrong_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    file = tmp_path / "flowgroup.toml"
    file.write_text(text)
    monkeypatch.setenv("FLOWGROUP_CONFIG", str(file))
    with pytest.raises(Refused):
        Settings.read()


def test_tokens_are_in_no_repr_and_in_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", '{"X-Key": "hush"}')
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", "/ca.pem")
    assert "hush" not in repr(Settings.read())
    assert "hush" not in str(environment_for_relay())
    assert environment_for_relay()["PREFECT_API_SSL_CERT_FILE"] == "/ca.pem"
    assert not [name for name in environment_for_user_code() if name.startswith("PREFECT_")]


@pytest.mark.parametrize(
    ("api", "ui"),
    [
        ("http://host:4200/api", "http://host:4200"),
        ("https://api.prefect.cloud/api/accounts/a/workspaces/w", "https://app.prefect.cloud/account/a/workspace/w"),
        ("https://proxy/prefix", None),
    ],
)
def test_the_uis_address_follows_from_the_apis(api: str, ui: str | None) -> None:
    assert ui_of(PrefectSettings(api_url=api)) == ui


@pytest.mark.parametrize(
    ("env", "spared"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, None),
        ({"HTTP_PROXY": "http://p:1"}, "127.0.0.1"),
        ({"all_proxy": "http://p:1", "NO_PROXY": "a.b,.c"}, "a.b,.c,127.0.0.1"),
        ({"http_proxy": "http://p:1", "no_proxy": "127.0.0.1, d"}, "127.0.0.1, d"),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "*"),
    ],
)
def test_where_a_proxy_is_named_loopback_is_reached_without_it(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], spared: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.setenv(name.upper(), "")
        monkeypatch.delenv(name)
        monkeypatch.delenv(name.upper())
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    spare_loopback()
    assert os.environ.get("no_proxy", os.environ.get("NO_PROXY")) == spared
