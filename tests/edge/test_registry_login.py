"""Logins as docker keeps them: in its file, or with a program."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from flowgroup.edge.registry.login import Login, login
from flowgroup.errors import Permanent

HOST = "registry.test:5000"
AUTH = base64.b64encode(b"ann:secret:with:colons").decode()
ANN = Login("ann", "secret:with:colons")


def keep(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A `docker-credential-vault` on PATH."""
    program = folder / "bin" / "docker-credential-vault"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("auths", "found"),
    [
        ({HOST: {"auth": AUTH}}, ANN),
        ({f"https://{HOST}/v1/": {"auth": AUTH}}, ANN),
        ({"registry.test": {"auth": AUTH}, "test": {"auth": AUTH}}, None),
        ({HOST: {}}, None),
        ({HOST: None}, None),
        ({HOST: {"auth": AUTH, "identitytoken": "identity"}}, Login(None, "identity")),
        (None, None),
    ],
)
def test_a_login_in_dockers_file_is_found(auths: Any, found: Login | None, tmp_path: Path) -> None:
    assert login(HOST, keep(tmp_path, auths=auths)) == found


def test_who_never_logged_in_has_no_login(tmp_path: Path) -> None:
    assert login(HOST, tmp_path) is None


@pytest.mark.parametrize("text", ["{", '{"auths": {"registry.test:5000": {"auth": "%%%"}}}'])
def test_a_file_that_cannot_be_read_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Permanent, match="cannot be read"):
        login(HOST, tmp_path)


@pytest.mark.parametrize("how", [{"credHelpers": {HOST: "vault"}}, {"credsStore": "vault"}])
def test_a_program_is_asked_where_the_file_names_one(
    how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, """read -r host; echo "{\\"Username\\": \\"$host\\", \\"Secret\\": \\"$1\\"}" """)
    assert login(HOST, keep(tmp_path, auths={HOST: {}}, **how)) == Login(HOST, "get")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("""echo '{"Username": "<token>", "Secret": "identity"}'""", Login(None, "identity")),
        ("echo credentials not found in native keychain; exit 1", ANN),
    ],
)
def test_what_a_program_may_say_is_understood(
    body: str, found: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, body)
    assert login(HOST, keep(tmp_path, auths={HOST: {"auth": AUTH}}, credsStore="vault")) == found


def test_a_program_that_talks_nonsense_is_told_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "echo secret-of-ann")
    with pytest.raises(Permanent, match="docker-credential-vault does not say the login") as caught:
        login(HOST, keep(tmp_path, credsStore="vault"))
    assert "secret-of-ann" not in str(caught.value)


@pytest.mark.parametrize("name", ["none-such", "../vault", 5])
def test_a_program_that_there_is_not_is_left_out(name: Any, tmp_path: Path) -> None:
    assert login(HOST, keep(tmp_path, auths={HOST: {"auth": AUTH}}, credsStore=name)) == ANN


def test_a_password_is_not_in_what_is_printed() -> None:
    assert "secret" not in repr(ANN)
