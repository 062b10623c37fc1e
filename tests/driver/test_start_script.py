"""The start script: what it says is kept, is in a run's log, and is told when it fails."""

import os
from pathlib import Path

import pytest

from flowgroup.driver import start_script
from flowgroup.driver.preface import Preface
from flowgroup.driver.start_script import StartScriptFailed, said
from flowgroup.errors import Permanent
from flowgroup.model.orders import Remark
from tests.driver.test_desk import order

ENV = {"PATH": os.environ["PATH"], "NAME": "you"}


async def test_what_it_says_is_given_and_nothing_where_there_is_none(tmp_path: Path) -> None:
    assert await start_script.run("echo hello $NAME; echo oh >&2", tmp_path, ENV) == ("hello you", "oh")
    assert await start_script.run(None, tmp_path, ENV) == ()


async def test_a_failure_has_all_lines_beside_the_last_ones(tmp_path: Path) -> None:
    with pytest.raises(
        StartScriptFailed, match=r"ended with status 3\. \[start-script\] Its last lines:\n6\n"
    ) as failed:
        await start_script.run("seq 20; exit 3; echo never", tmp_path, ENV)
    assert failed.value.lines == (*map(str, range(1, 21)), "the start script ended with status 3")


async def test_without_bash_it_is_said_what_the_image_lacks(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="no usable bash"):
        await start_script.run("true", tmp_path, {"PATH": str(tmp_path)})


@pytest.mark.parametrize("text", ["\n".join(map(str, range(5000))), "x" * 300_000 + "\nend"])
def test_of_much_the_end_is_kept_and_that_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "start.log").write_text(text)
    lines = said(tmp_path / "start.log")
    assert len(lines) <= 501
    assert "only the last" in lines[0]
    assert lines[-1] == text.splitlines()[-1]
    assert sum(map(len, lines)) < 70_000


def test_the_first_run_has_the_scripts_lines_in_their_order_and_each_has_its_remarks() -> None:
    preface = Preface(("one", "", "t\x00o"))
    told = order().model_copy(update={"remarks": (Remark(text="mind", is_warning=True),)})
    first, second = list(preface.records(told)), list(preface.records(told))
    assert [entry["message"] for entry in first] == ["one", " ", "t\N{REPLACEMENT CHARACTER}o", "mind"]
    assert [entry["timestamp"] for entry in first] == sorted(entry["timestamp"] for entry in first)
    assert {entry["name"] for entry in first[:3]} == {"flowgroup.start_script"}
    assert [(entry["name"], entry["level"], entry["flow_run_id"]) for entry in second] == [("flowgroup", 30, "run-a")]
