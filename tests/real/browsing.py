"""A real browser, as a person looks at a page with it."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

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


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """The test is skipped where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver on PATH (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield made
    finally:
        made.quit()
