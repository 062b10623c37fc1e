"""The version stands in three files, since each is read by a program that reads no other."""

import tomllib
from pathlib import Path

import flowgroup

_ROOT = Path(__file__).parents[1]


def test_package_code_and_chart_have_one_version() -> None:
    package = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = [
        line.partition(":")[2].strip().strip('"') for line in _chart() if line.startswith(("version:", "appVersion:"))
    ]
    assert {package, flowgroup.__version__, *chart} == {package}
    assert len(chart) == 2


def _chart() -> list[str]:
    return (_ROOT / "helm" / "flowgroup" / "Chart.yaml").read_text().splitlines()
