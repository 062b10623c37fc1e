"""The stage table, the flame graphs, and what they are made from."""

import json
import re
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from flowgroup import settings
from flowgroup.dev import flame
from flowgroup.dev.profile import spy, stages
from flowgroup.dev.profile.report import Picture, Profile, write
from flowgroup.driver.sampler import sampled, sampling
from flowgroup.settings import DriverSettings

_STACKS = ["Main;a;b 600", "Main;a;c 300", "Main;a 100", "Other;z 5000", "nonsense"]


def test_stacks_add_up_from_the_outside_in() -> None:
    whole = flame.read(_STACKS, under="Main")
    assert whole.took == 1000
    a = whole.below["a"]
    assert a.took == 1000
    assert {name: frame.took for name, frame in a.below.items()} == {"b": 600, "c": 300}


def test_the_frames_that_a_fork_brought_along_are_left_out() -> None:
    whole = flame.read(["zygote;serve;run;load 7", "zygote;serve;run;call;serve 3", "loop;x 1"], above="run")
    assert {name: frame.took for name, frame in whole.below.items()} == {"load": 7, "call": 3, "loop": 1}


def test_a_flame_graph_is_one_svg_whose_frames_are_as_wide_as_their_share_and_say_their_time() -> None:
    drawn = flame.svg(flame.read([*_STACKS, "Main;<odd>&;x 1"], under="Main"), "a < b", per=2)
    root = ET.fromstring(drawn)
    rectangles = [element for element in root.iter() if element.tag.endswith("rect")]
    width = {rect[0].text.split(":")[0]: float(rect.attrib["width"]) for rect in rectangles if rect[0].text}
    assert width["b"] == pytest.approx(2 * width["c"], rel=0.01)
    assert width["all"] == pytest.approx(1180, rel=0.01)
    assert "<odd>&" not in width  # narrower than anybody could see
    titles = [rect[0].text for rect in rectangles]
    assert any(re.fullmatch(r"b: 0\.30 ms, 59\.9 %", title or "") for title in titles)
    assert "<script" not in drawn


def test_a_flame_graph_of_nothing_is_still_a_picture() -> None:
    assert ET.fromstring(flame.svg(flame.read([]), "nothing")) is not None


def test_stages_come_from_the_logs_and_the_first_word_about_a_run_counts() -> None:
    def line(event: str, second: int, run: str = "r1") -> str:
        return json.dumps({"event": event, "run": run, "timestamp": f"2026-01-01T00:00:{second:02}Z"})

    log = [
        line("run_claimed", 1),
        line("run_claimed", 9),
        line("run_sent", 2, "r2"),
        "not json r1",
        line("run_sent", 3),
    ]
    found = stages.noted(log, "r1")
    assert found["run_sent"] - found["run_claimed"] == 2


def test_steps_are_medians_and_a_stage_that_no_run_passed_is_left_out() -> None:
    runs = [
        {"created": 0.0, "run_claimed": claimed, "Running": claimed + 0.1, "Completed": claimed + 0.3}
        for claimed in (0.1, 0.2, 0.9)
    ]
    found = {step.stage.mark: step for step in stages.steps(runs)}
    assert list(found) == ["created", "run_claimed", "Running", "Completed"]
    assert found["run_claimed"].since_before_ms == pytest.approx(200)
    assert found["Running"].since_before_ms == pytest.approx(100)
    assert found["Completed"].since_created_ms == pytest.approx(500)
    assert "| API | 100 ms | 300 ms |" in stages.table(list(found.values()))


def test_py_spy_s_lines_are_put_together_by_function() -> None:
    raw = ["thread (7);run (prefect/engine.py:12);__init__ (<string>:3) 5", "broken"]
    assert spy.collapsed(raw) == ["thread (7);prefect.engine:run;<string>:__init__ 20000"]


def test_the_page_has_the_stages_and_a_picture_that_there_is_none_of_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "old.svg").write_text("old")
    pictures = [
        Picture("run.svg", "One run", _STACKS, 2, "Main"),
        Picture("old.svg", "A worker", [], trouble="no tool"),
    ]
    write(Profile([{"created": 0.0, "Running": 0.25}], 1000, 4.0, pictures), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| API | 250 ms | 250 ms |" in page
    assert "250 a second, 4.0 ms each" in page
    assert "![One run](run.svg)" in page
    assert "| 0.30 ms | 60 % | `b` |" in page
    assert "Not drawn this time: no tool." in page
    assert (tmp_path / "old.svg").read_text() == "old"
    assert ET.fromstring((tmp_path / "run.svg").read_text()) is not None


def test_the_sampler_sees_what_the_main_thread_does_for_how_long_and_no_thread_that_only_waits(tmp_path: Path) -> None:
    over = threading.Event()
    idle = threading.Thread(target=over.wait, name="idler")
    idle.start()
    try:
        with sampling(tmp_path):
            _spin(0.3)
    finally:
        over.set()
        idle.join()
    [left] = tmp_path.iterdir()
    whole = flame.read(left.read_text().splitlines(), under="MainThread")
    spun = sum(frame.took for frame in _all(whole) if frame.name == f"{__name__}:_spin")
    assert spun > 0.5 * whole.took
    assert whole.took > 150_000
    assert "idler" not in left.read_text()


def test_without_a_folder_a_run_is_left_as_it_is(tmp_path: Path) -> None:
    def run(brief: bytes, leash: int, shipper: int) -> int:
        return len(brief) + leash + shipper

    assert sampled(run, None) is run
    assert sampled(run, tmp_path)(b"ab", 3, 4) == 9
    assert len(list(tmp_path.glob("*.stacks"))) == 1


def test_the_folder_comes_to_the_zygote_and_without_one_nothing_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWGROUP_DRIVER_PROFILE", raising=False)
    assert "FLOWGROUP_DRIVER_PROFILE" not in settings.environment_for_drivers(DriverSettings())
    assert settings.environment_for_zygote(DriverSettings()) == {}
    assert settings.profile_folder() is None
    chosen = DriverSettings(profile=Path("/profile"))
    assert settings.environment_for_drivers(chosen)["FLOWGROUP_DRIVER_PROFILE"] == "/profile"
    for name, value in settings.environment_for_zygote(chosen).items():
        monkeypatch.setenv(name, value)
    assert settings.profile_folder() == Path("/profile")


def _spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(100))


def _all(frame: flame.Frame) -> list[flame.Frame]:
    return [frame, *(below for child in frame.below.values() for below in _all(child))]
