"""The key and the auth string: from the environment or a file, read again when they change, and never printed."""

import logging
import os
from pathlib import Path

import httpx
import pytest
import structlog
from pydantic import SecretStr

from flowgroup.edge.credentials import Credentials, Shown
from flowgroup.edge.wire import connected
from flowgroup.errors import Refused
from flowgroup.settings import PrefectSettings

OLD, NEW = "pnu_the-old-key", "pnu_the-new-key"


def _file(folder: Path, text: str = OLD) -> Path:
    path = folder / "key"
    path.write_text(text)
    return path


def test_a_file_wins_over_the_value_and_its_line_break_is_not_part_of_it(tmp_path: Path) -> None:
    held = Credentials(key=SecretStr("other"), key_file=_file(tmp_path, f"{OLD}\n"))
    assert held.shown() == f"Bearer {OLD}"
    assert held.word() == OLD


def test_the_auth_string_wins_over_the_key(tmp_path: Path) -> None:
    held = Credentials(key=SecretStr("key"), auth_string=SecretStr("user:word"))
    assert held.shown() == "Basic dXNlcjp3b3Jk"
    assert held.word() == "user:word"
    assert Credentials().shown() is None


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = _file(tmp_path)
    held = Credentials(key_file=path)
    path.write_text(f"{NEW}!")
    assert held.shown() == f"Bearer {NEW}!"


def test_a_link_that_points_elsewhere_is_read_again_as_kubernetes_does_it(tmp_path: Path) -> None:
    for name, text in (("one", OLD), ("two", NEW)):
        (tmp_path / name).mkdir()
        _file(tmp_path / name, text)
    link = tmp_path / "data"
    link.symlink_to("one")
    held = Credentials(key_file=link / "key")
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(link)
    assert held.shown() == f"Bearer {NEW}"


def test_what_looks_unchanged_is_read_again_when_the_api_refuses_it(tmp_path: Path) -> None:
    path = _file(tmp_path)
    held = Credentials(key_file=path)
    before = path.stat()
    path.write_text(NEW)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert held.shown() == f"Bearer {OLD}"
    assert held.refused()
    assert held.shown() == f"Bearer {NEW}"
    assert not held.refused()


@pytest.mark.parametrize("now", [None, "", "  \n", "pnu_with a\nbreak\x01"])
def test_a_file_that_is_just_being_replaced_leaves_the_old_one_in_use(tmp_path: Path, now: str | None) -> None:
    path = _file(tmp_path)
    held = Credentials(key_file=path)
    path.unlink()
    if now is not None:
        path.write_text(now)
    assert held.shown() == f"Bearer {OLD}"
    path.write_text(NEW)
    assert held.shown() == f"Bearer {NEW}"


@pytest.mark.parametrize("text", [None, "", "a key\x01with", "schlüssel"])
def test_at_the_start_it_is_refused_by_the_variables_name_and_without_the_key(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "key"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Refused, match="PREFECT_API_KEY") as refused:
        Credentials(key_file=path)
    assert not text or text not in str(refused.value)


async def test_the_daemons_calls_go_on_with_the_new_key_after_a_401(tmp_path: Path) -> None:
    path, seen = _file(tmp_path), []

    def api(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        if request.headers["authorization"] == f"Bearer {NEW}":
            return httpx.Response(200, json={"ok": True})
        before = path.stat()
        path.write_text(NEW)  # it is replaced at this moment, and the clock does not show it
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return httpx.Response(401, json={})

    settings = PrefectSettings(api_url="http://prefect/api", api_key_file=path)
    async with connected(settings, transport=httpx.MockTransport(api)) as wire:
        assert await wire.call("GET", "/health") == {"ok": True}
    assert seen == [f"Bearer {OLD}", f"Bearer {NEW}"]


def test_nothing_prints_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = _file(tmp_path)
    with structlog.testing.capture_logs() as logged:
        held = Credentials(key_file=path, auth_string=SecretStr("user:word"))
        path.write_text(NEW)
        held.refused()
        path.write_text("")
        held.secrets()
        said = repr((held, vars(held), [vars(one) for one in vars(held).values()], Shown(held), logged, caplog.text))
    assert len(logged) == 2
    assert not [secret for secret in (OLD, NEW, "user:word") if secret in said]
