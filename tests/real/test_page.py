"""The daemon's own page in a real browser: what a person sees of groups, clusters and runs, also on a phone."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By

from tests.real.browsing import Browser, chromium
from tests.real.stack import Stack, stack, wait_for

pytestmark = [pytest.mark.real, pytest.mark.browser]


@pytest.fixture(scope="module")
def paged(prefect_api: str) -> Iterator[Stack]:
    """A daemon with a page."""
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(
            prefect_api, Path(folder), "paged", env={"FLOWGROUP_PAGE_PORT": "0", "FLOWGROUP_DASHBOARDS": "true"}
        ) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as made:
        made.set_page_load_timeout(60)
        yield made


@pytest.fixture
def browser(chrome: webdriver.Chrome, paged: Stack, tmp_path: Path) -> Iterator[Browser]:
    """Whoever opens it has shown the token in the form."""
    [said] = paged.events("page_served")
    made = Browser(chrome, said["at"], tmp_path)
    made.shows("/", "The page's token")
    chrome.find_element(By.ID, "token").send_keys(Path(said["token_file"]).read_text())
    made.press("Open", "Flow groups and clusters")
    yield made
    chrome.delete_all_cookies()
    chrome.set_window_size(1400, 2200)


def test_groups_runs_and_stage_timings_are_there(browser: Browser, paged: Stack) -> None:
    deployment = paged.deploy("lab.py:lab", "paged", "--workers", "1")
    gate = paged.home / "gate"
    first = paged.start(deployment, what="sleeps", with_={"seconds": 0})
    assert paged.wait(first)["state_name"] == "Completed"
    second = paged.start(deployment, what="waits_for", with_={"file": str(gate)})
    paged.wait(second, "Running")
    names = [paged.run(run)["name"] for run in (first, second)]
    text = browser.shows("/", "lab", "ready", "running", "default 1/1", *names)
    assert "stuck" not in text
    charts = browser.driver.find_elements(By.CSS_SELECTOR, "#times svg")
    said = [chart.get_attribute("aria-label") for chart in charts]
    assert len(said) == 2
    assert [all(stage in one for stage in ("waited", "placed", "started")) for one in said] == [True, True]
    assert ["ran" in one for one in said] == [False, True]
    links = [link.get_attribute("href") for link in browser.driver.find_elements(By.CSS_SELECTOR, "#runs a")]
    assert links == [f"{paged.url.removesuffix('/api')}/runs/flow-run/{second}"]
    gate.touch()
    assert paged.wait(second)["state_name"] == "Completed"
    browser.shows("/", "No run is under way.")
    written = wait_for(lambda: _artifacts(paged, second), "the run has its artifact")
    assert "| started | until Running |" in written[0]["data"]
    assert f"]({browser.base})" in written[0]["data"]


def _artifacts(paged: Stack, run: str) -> list[dict[str, Any]]:
    body = {"artifacts": {"flow_run_id": {"any_": [run]}, "type": {"any_": ["markdown"]}}}
    found: list[dict[str, Any]] = paged.api.post("/artifacts/filter", json=body).json()
    return found


def test_the_dashboard_of_a_cluster_moves_and_may_do_nothing_to_the_page(browser: Browser, paged: Stack) -> None:
    deployment = paged.deploy("lab.py:lab", "seen", "--workers", "1")
    gate = paged.home / "another-gate"
    run = paged.start(deployment, what="waits_for", with_={"file": str(gate)})
    paged.wait(run, "Running")
    browser.shows("/", "dashboard")
    chrome = browser.driver
    [link, *_] = chrome.find_elements(By.LINK_TEXT, "dashboard")
    path = str(link.get_attribute("href")).removeprefix(browser.base)
    browser.shows(path, "Processing", "Data Transfer")
    drawn = "return Bokeh.documents.length && Bokeh.documents[0].roots().length"
    wait_for(lambda: chrome.execute_script(drawn), "Bokeh draws what its websocket told")
    assert chrome.execute_script("return origin") == "null"
    with pytest.raises(WebDriverException, match="sandboxed"):
        chrome.execute_script("return document.cookie")
    read = "const done = arguments[0]; fetch('/status.json').then(one => one.text()).then(done, one => done('' + one))"
    assert "Failed to fetch" in chrome.execute_async_script(read)
    asked = chrome.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert asked and all(one.startswith((browser.base, browser.base.replace("http", "ws"))) for one in asked), asked
    browser.shows(path.replace("/status", "/workers"), "Workers", "worker-0")
    gate.touch()
    assert paged.wait(run)["state_name"] == "Completed"


def test_it_fits_a_phone_and_asks_nobody_else(browser: Browser) -> None:
    browser.driver.set_window_size(390, 844)
    browser.shows("/", "Flow groups and clusters", "stage by stage")
    width, there = browser.driver.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= there
    asked = browser.driver.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert asked and all(one.startswith(browser.base) for one in asked)


def test_without_the_token_nothing_is_seen(chrome: webdriver.Chrome, paged: Stack, tmp_path: Path) -> None:
    [said] = paged.events("page_served")
    chrome.delete_all_cookies()
    browser = Browser(chrome, said["at"], tmp_path)
    browser.shows("/", "The page's token")
    chrome.find_element(By.ID, "token").send_keys("not the token")
    text = browser.press("Open", "The page's token")
    assert paged.pool not in text
