"""Prefect's own UI in a real browser: what a person sees of our pool, our workers and a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from flowgroup.model.variables import JobVariables
from tests.real.browsing import Browser, chromium
from tests.real.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.browser]


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as made:
        yield made


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
