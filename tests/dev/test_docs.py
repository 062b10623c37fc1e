"""The documentation: every page is in the site, every link leads somewhere, and what is made of the code is as the code is."""

import argparse
import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowgroup import cli
from flowgroup.dev import reference
from flowgroup.edge.kubernetes.sizes import Sizes
from tests.chart.conftest import CHART, helm_binary, rendered

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *PAGES]
_SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {8}.*\n(?:\n(?= {8}))?)+", re.MULTILINE)
_LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
_ELSEWHERE = re.compile(r"^(https?:|mailto:)")
_LOADED = re.compile(
    r"!\[[^]]*\]\((?:https?:)?//|<(?:script|link|img|iframe)\b|@import|(?:xlink:)?href=.?https?:|url\((?!#)"
)
_SETTING = re.compile(r"\bFLOWGROUP_[A-Z][A-Z_]*[A-Z]\b(?![_…])")
# Read where there are no settings: by authors, by the tests, and by what a shell of ours exports.
_NO_SETTINGS = {"FLOWGROUP_CONFIG", "FLOWGROUP_STORE", "FLOWGROUP_SIGNING_KEY"}
_OF_TESTS = ("FLOWGROUP_TEST_", "FLOWGROUP_FUZZ_", "FLOWGROUP_CHAOS_")


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _in_nav(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from _in_nav(inner)


def _prose(path: Path) -> str:
    """The page without its blocks of code."""
    return _FENCED.sub("", path.read_text())


def _anchors(path: Path) -> set[str]:
    """Those of its headings, as GitHub and MkDocs both make them."""
    headings = re.findall(r"^#+ (.+)$", _prose(path), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(" ", "-", heading) for heading in plain}


def _blocks(path: Path, *languages: str) -> list[str]:
    return [body for _, language, body in _FENCED.findall(path.read_text()) if language in languages]


def test_every_page_is_in_the_site_once() -> None:
    assert sorted(_in_nav(_SITE["nav"])) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_a_fault_ends_the_building_of_the_site() -> None:
    assert _SITE["strict"] is True
    assert (
        "mkdocs build --strict --clean  #" in (ROOT / "Makefile").read_text()
    )  # --quiet would say no warnings, and count none
    assert set(_SITE["validation"]["links"].values()) | set(_SITE["validation"]["nav"].values()) == {"warn"}


@pytest.mark.parametrize("page", WRITTEN, ids=_named)
def test_every_link_leads_to_something_that_is_there(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_prose(page)):
        if _ELSEWHERE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
        elif page in PAGES and not target.is_relative_to(DOCS):
            broken.append(f"{link}: not in the site")
    assert broken == []


def test_no_page_loads_anything_from_elsewhere() -> None:
    assert _SITE["theme"]["name"] in {"mkdocs", "readthedocs"}  # those that bring their fonts and scripts
    assert _SITE["theme"]["highlightjs"] is False  # it would come from a CDN
    assert not {"extra_javascript", "plugins", "hooks"} & _SITE.keys()
    assert all((DOCS / sheet).is_file() for sheet in _SITE["extra_css"])
    files = [file for file in DOCS.rglob("*") if file.suffix in {".md", ".svg", ".css"}]
    assert {_named(file): found[0] for file in files if (found := _LOADED.search(file.read_text()))} == {}


def test_the_page_of_settings_is_made_from_the_code() -> None:
    assert (DOCS / "settings.md").read_text() == reference.page(), "stale: run `make docs`"


def test_every_setting_says_what_it_means() -> None:
    rows = [line for line in reference.page().splitlines() if re.match(r"\| `[A-Z]", line)]
    assert len(rows) == len(list(reference.variables()))
    assert [row for row in rows if row.endswith("| |")] == []


def test_the_chart_s_page_is_its_readme() -> None:
    assert (DOCS / "chart.md").read_text() == (CHART / "README.md").read_text(), "stale: run `make chart`"


@pytest.mark.parametrize("page", WRITTEN, ids=_named)
def test_a_page_names_settings_that_there_are(page: Path) -> None:
    known = {*reference.variables(), *_NO_SETTINGS}
    named = {name for name in _SETTING.findall(page.read_text()) if not name.startswith(_OF_TESTS)}
    assert named - known == set()


@pytest.mark.parametrize("page", WRITTEN, ids=_named)
def test_a_page_names_files_that_there_are(page: Path) -> None:
    named = re.findall(r"`((?:agent|deploy|docs|helm|tests)/[\w./-]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=_named)
def test_a_page_s_commands_and_flags_are_ones_that_there_are(page: Path) -> None:
    for line in "".join(_blocks(page, "")).splitlines():
        if re.match(r"(\S+/)?flowgroup ", line):
            parser, rest = _parser_of(shlex.split(line, comments=True)[1:])
            flags = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert flags <= set(parser._option_string_actions), line


def _parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The command that a line begins with, and the rest of it."""
    parser = cli.parser()
    while commands := [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]:
        name, *words = words
        parser = commands[0].choices[name]
    return parser, words


@pytest.mark.parametrize("page", WRITTEN, ids=_named)
def test_what_is_python_on_a_page_can_be_read(page: Path) -> None:
    for block in _blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("name", ["kubernetes.md", "gpu.md"])
def test_a_page_s_values_are_ones_that_the_chart_takes(name: str, tmp_path: Path) -> None:
    if helm_binary() is None:
        pytest.skip("helm is not there")
    text = (DOCS / name).read_text()
    found = [*_blocks(DOCS / name, "yaml"), *(block for block in _INDENTED.findall(text) if "apiUrl:" in block)]
    assert len(found) == 1
    file = tmp_path / "values.yaml"
    file.write_text(re.sub(r"^ {8}", "", found[0], flags=re.MULTILINE) if name == "kubernetes.md" else found[0])
    done = rendered("-f", str(CHART / "ci" / "minimal-values.yaml"), "-f", str(file))
    assert done.returncode == 0, done.stderr


def test_the_page_s_sizes_are_ones_that_the_daemon_takes(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    (block,) = _blocks(DOCS / "gpu.md", "yaml")
    file.write_text(json.dumps(yaml.safe_load(block)["sizes"]))
    sizes = Sizes.read(file)
    assert sizes.size("gpu-large", of="worker_size").extended == {"nvidia.com/gpu": "1"}
    assert sizes.size("gpu-slice", of="worker_size").extended == {"nvidia.com/mig-1g.5gb": "1"}
    assert sizes.spot(of="worker_spot").node_selector
