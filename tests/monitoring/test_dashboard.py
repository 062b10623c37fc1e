"""The dashboard is the script's, and every metric that it asks for is one that there is."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.monitoring.tools import DASHBOARD, ROOT, exported, names_in, tool

_PANELS = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
_ASKED = [target["expr"] for panel in _PANELS for target in panel["targets"]]


def test_the_dashboard_is_made_by_its_script() -> None:
    made = subprocess.run([sys.executable, "helm/dashboard.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == DASHBOARD.read_text(), "stale: run `make chart`"


def test_it_asks_for_metrics_that_there_are_and_only_of_the_chosen_namespaces() -> None:
    assert len(_ASKED) > 30
    for expression in _ASKED:
        names = names_in(expression)
        assert names and names <= exported(), expression
        assert expression.count("flowgroup_") == expression.count('namespace=~"$namespace"'), expression


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in own) < 24
        assert not taken & own, panel["title"]
        taken |= own


def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    """As rules, for promtool reads those."""
    plain = [
        one.replace("$__rate_interval", "5m").replace("$__range", "6h").replace("$namespace", ".*") for one in _ASKED
    ]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(plain)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [tool("promtool"), "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
