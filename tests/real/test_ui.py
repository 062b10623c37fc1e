"""Prefect's own UI in a real browser: what a person sees of our pool, our workers and a run."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from flowgroup.model.variables import JobVariables
from tests.real.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.browser]

# No display, no GPU, and no word to anybody but the server under test.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,2200",
)
_DEADLINE_S = 60.0


@dataclass
class Browser:
    """One tab on the UI at `base`. `pictures` is where it leaves a screenshot of each page, also of one that fails."""

    driver: webdriver.Chrome
    base: str
    pictures: Path

    def shows(self, path: str, *texts: str) -> str:
        """Open a page; the test fails unless all these texts are visible on it in time. Returns all its text."""
        self.driver.get(f"{self.base}{path}")
        return self._until(path.strip("/").replace("/", "-").replace("?", "-"), texts)

    def press(self, label: str, *texts: str) -> str:
        """Press what bears this label, on the page that is open; then as `shows`."""
        deadline = time.monotonic() + _DEADLINE_S
        while not self._pressed(label):
            assert time.monotonic() < deadline, f"nothing on {self.driver.current_url} bears {label!r}: {self._text()}"
            time.sleep(0.1)
        return self._until(label, texts)

    def _pressed(self, label: str) -> bool:
        try:
            found = self.driver.find_elements(By.XPATH, f"//*[text()[normalize-space()='{label}']]")
            visible = [element for element in found if element.is_displayed()]
            if visible:
                visible[0].click()
            return bool(visible)
        except (StaleElementReferenceException, ElementClickInterceptedException):  # redrawn, or not yet in its place
            return False

    def _until(self, name: str, texts: tuple[str, ...]) -> str:
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            text = self._text()
            missing = [wanted for wanted in texts if wanted not in text]
            if not missing or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        picture = self.pictures / f"{name}.png"
        self.driver.save_screenshot(str(picture))
        assert not missing, f"{self.driver.current_url} does not show {missing} (see {picture}); it shows:\n{text}"
        return text

    def _text(self) -> str:
        try:
            return self.driver.find_element(By.TAG_NAME, "body").text
        except StaleElementReferenceException:  # the page was redrawn while we read it
            return ""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on PATH (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield made
    finally:
        made.quit()


@pytest.fixture
def browser(chrome: webdriver.Chrome, whole: Stack, tmp_path: Path) -> Browser:
    return Browser(chrome, whole.url.removesuffix("/api"), tmp_path)


def test_the_pool_is_ready_and_our_worker_is_online(browser: Browser, whole: Stack) -> None:
    text = browser.shows(
        f"/work-pools/work-pool/{whole.pool}", "Ready", "Dask", "Base Job Configuration", "Cluster mode"
    )
    assert "Not Ready" not in text

    workers = whole.api.post(f"/work_pools/{whole.pool}/workers/filter", json={}).json()
    [worker] = [worker for worker in workers if worker["status"] == "ONLINE"]
    text = browser.shows(f"/work-pools/work-pool/{whole.pool}?tab=Workers", worker["name"], "Online")
    assert "Offline" not in text


def test_the_pool_s_form_has_a_field_for_each_job_variable(browser: Browser, whole: Stack) -> None:
    titles = [str(field.title) for field in JobVariables.model_fields.values()]
    assert {"Dask workers", "Cluster mode"} <= set(titles)
    how_to = ["How many Dask workers the flow's cluster has", "one run at a time", "Seconds without a run"]
    browser.shows(f"/work-pools/work-pool/{whole.pool}/edit", "Base Job Template", *titles, *how_to)


@pytest.fixture(scope="module")
def page(whole: Stack) -> str:
    """A deployment of the flow `page` on one Dask worker."""
    return whole.deploy("page.py:page", "page", "--workers", "1")


def test_a_deployment_s_page_offers_a_run_with_its_parameters(browser: Browser, whole: Stack, page: str) -> None:
    browser.shows(f"/deployments/deployment/{page}", "Ready", whole.pool, "page.py:page")
    browser.shows(f"/deployments/deployment/{page}/run", "lines", "fail", "Validate parameters", "Submit")


def test_a_finished_run_shows_its_state_its_tasks_and_its_log(browser: Browser, whole: Stack, page: str) -> None:
    run = whole.start(page)
    whole.wait(run, "COMPLETED")
    whole.wait_log(run, "Finished in state Completed", timeout_s=30)
    name = whole.run(run)["name"]
    lines = ["Beginning flow run", "line 0", "line 1", "line 2", "INFO", "prefect.flow_runs"]
    browser.shows(f"/runs/flow-run/{run}", name, "Completed", "page", whole.pool, *lines)
    text = browser.press("Task Runs", "2 Task runs", "where-")
    assert "line 0" not in text


def test_a_run_that_fails_says_why_on_its_page(browser: Browser, whole: Stack, page: str) -> None:
    run = whole.start(page, fail=True)
    whole.wait(run, "FAILED")
    whole.wait_log(run, "Finished in state Failed")
    browser.shows(f"/runs/flow-run/{run}", "Failed", "the flow fails on purpose", "ERROR", "Traceback")
