"""Prometheus and promtool: from PATH, or where `.ci/run` has unpacked them."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowgroup import metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "flowgroup" / "files" / "alerts.yaml"
DASHBOARD = ROOT / "helm" / "flowgroup" / "files" / "dashboard.json"
_NAME = re.compile(r"\bflowgroup_[a-z0-9_]+")
# Labels of targets, which the chart's ServiceMonitor adds.
TARGET_LABELS = {"flowgroup_dev_served"}


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; the test is skipped where there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(ROOT / ".flowgroup" / "bin"))
    if found is None:
        pytest.skip(f"{name} is not there: Debian's package `prometheus` has it")
    return found


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def names_in(expression: str) -> set[str]:
    """The metrics that an expression of PromQL names."""
    return set(_NAME.findall(expression)) - TARGET_LABELS


def exported() -> set[str]:
    """The names of all samples that the daemon and the relay may show."""
    return set(_exported())


def families() -> set[str]:
    """The names of all metrics: of a histogram without what its samples have at their ends."""
    return {family.name for registry in metrics.ROOMS.values() for family in registry.collect()}


def _exported() -> Iterator[str]:
    more = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",), "gauge": ("",)}
    for registry in metrics.ROOMS.values():
        for family in registry.collect():
            yield from (f"{family.name}{suffix}" for suffix in more[family.type])
