"""What a process has imported since a moment: only the new modules are looked at."""

import subprocess
import sys
from types import ModuleType

import pytest

from flowgroup.driver.installed import Newcomers


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the module that was imported last, and has not been taken yet."""
    name = "flowgroup_test_last"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    return name


def test_what_comes_is_taken_once_and_in_order(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Newcomers(last)
    assert new.take() == []
    for name in ("flowgroup_test_one", "flowgroup_test_two"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert new.take() == ["flowgroup_test_one", "flowgroup_test_two"]
    assert new.take() == []
    monkeypatch.delitem(sys.modules, "flowgroup_test_two")
    monkeypatch.setitem(sys.modules, "flowgroup_test_two", ModuleType("again"))
    monkeypatch.setitem(sys.modules, "flowgroup_test_three", ModuleType("three"))
    assert new.take() == ["flowgroup_test_three"]


def test_where_the_last_one_is_not_known_or_gone_all_are_new(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Newcomers(last)
    monkeypatch.delitem(sys.modules, last)
    assert gone.take() == list(sys.modules) == Newcomers(None).take()
    assert gone.take() == []


def test_a_process_that_was_not_forked_has_everything_to_look_at_and_no_news() -> None:
    looked = "from flowgroup.driver import installed as i; import sys; "
    looked += "print(i.since_fork().take() == list(sys.modules), list(i.news()))"
    said = subprocess.run([sys.executable, "-c", looked], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "True []"
