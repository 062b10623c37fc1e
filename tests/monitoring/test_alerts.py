"""Every alert fires when it should and clears when it should, by promtool; and has its page."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.tools import ROOT, RULES, alerts, exported, families, names_in, tool

_D = 'namespace="fg", flowgroup_dev_served="cpu", pod="daemon-1"'
_S = 'namespace="fg", flowgroup_dev_served="cpu", pod="stands-by"'
_R = 'namespace="fg", pod="relay-0"'


@dataclass(frozen=True)
class Case:
    """`series`: a sample a minute. The alert is silent at minute `before`, fires at `at`, and is silent again at `after`."""

    series: dict[str, str]
    before: int
    at: int
    after: int


def _calls(name: str, good: str, bad: str, labels: str, codes: tuple[str, str] = ("2xx", "5xx")) -> dict[str, str]:
    return {f'{name}{{{_D}, {labels}, code="{code}"}}': values for code, values in zip(codes, (good, bad), strict=True)}


def _bucket(cluster: str, *, slow: bool) -> dict[str, str]:
    """60 runs a minute: fast for 20 minutes, then as `slow` says for 40, then fast again."""
    name = f'flowgroup_schedule_to_running_seconds_bucket{{{_D}, cluster="{cluster}", le='
    fast = "0+60x20 1200+0x40 1260+60x60" if slow else "0+60x120"
    return {f'{name}"1"}}': fast, f'{name}"300"}}': "0+60x120", f'{name}"+Inf"}}': "0+60x120"}


_API = 'route="/flow_runs/{id}", method="GET"'
_OUT = f"flowgroup_runs_finished_total{{{_D}, outcome="
CASES = {
    "FlowgroupDaemonDown": Case(
        {
            f"flowgroup_slots{{{_D}}}": "100x10 _x20 100x60",
            'flowgroup_slots{namespace="fg", flowgroup_dev_served="gpu"}': "9x99",
        },
        12,
        25,
        40,
    ),
    "FlowgroupNoSuccessfulPoll": Case(
        {
            f"flowgroup_last_successful_poll_timestamp_seconds{{{_D}}}": "0+60x10 600x10 1260+60x60",
            f"flowgroup_leading{{{_D}}}": "1x120",
            f"flowgroup_last_successful_poll_timestamp_seconds{{{_S}}}": "0x120",
            f"flowgroup_leading{{{_S}}}": "0x120",
        },
        9,
        18,
        30,
    ),
    "FlowgroupApiUnauthorized": Case(
        {f'flowgroup_polls_total{{{_D}, outcome="unauthorized"}}': "0x10 1+3x5 16x60"}, 9, 14, 30
    ),
    "FlowgroupApiErrors": Case(
        _calls("flowgroup_api_requests_total", "0+60x120", "0x20 0+60x30 1800x60", _API), 19, 40, 70
    ),
    "FlowgroupApiRateLimited": Case(
        _calls("flowgroup_api_requests_total", "0+60x120", "0x20 0+30x40 1200x60", _API, ("2xx", "429")), 25, 50, 90
    ),
    "FlowgroupWarmStartsSlow": Case(_bucket("warm", slow=True), 20, 55, 100),
    "FlowgroupColdStartsSlow": Case(_bucket("cold", slow=True), 20, 59, 110),
    "FlowgroupSlotsExhausted": Case(
        {f"flowgroup_slots{{{_D}}}": "10x120", f"flowgroup_runs_active{{{_D}}}": "9x10 10x50 3x60"}, 30, 50, 65
    ),
    "FlowgroupCrashRateHigh": Case(
        {f'{_OUT}"crashed"}}': "0x20 0+1x20 20x80", f'{_OUT}"reported"}}': "0+4x120"}, 20, 40, 90
    ),
    "FlowgroupClustersStuck": Case(
        {
            f'flowgroup_clusters{{{_D}, phase="starting"}}': "0x10 2x40 0x60",
            f"flowgroup_cluster_start_seconds_count{{{_D}}}": "5x120",
        },
        25,
        45,
        60,
    ),
    "FlowgroupWorkersMissing": Case(
        {
            f'flowgroup_workers{{{_D}, state="wanted"}}': "4x120",
            f'flowgroup_workers{{{_D}, state="there"}}': "4x10 3x40 4x60",
        },
        25,
        40,
        55,
    ),
    "FlowgroupKubernetesErrors": Case(
        _calls(
            "flowgroup_kubernetes_requests_total",
            "0+60x120",
            "0x20 0+60x30 1800x60",
            'verb="list", resource="pods"',
            ("2xx", "none"),
        ),
        19,
        40,
        70,
    ),
    "FlowgroupStoreFails": Case(
        {
            f'flowgroup_store_requests_total{{{_D}, operation="head", outcome="failed"}}': "0x10 0+1x20 20x60",
            f'flowgroup_store_requests_total{{{_D}, operation="head", outcome="ok"}}': "0+5x90",
        },
        10,
        30,
        50,
    ),
    "FlowgroupEventLoopBlocked": Case({f"flowgroup_event_loop_blocked_total{{{_D}}}": "0x10 1x60"}, 9, 15, 30),
    "FlowgroupRelayDown": Case(
        {
            f"flowgroup_relay_spool_limit_bytes{{{_R}}}": "5x30 _x20 5x60",
            'flowgroup_relay_spool_limit_bytes{namespace="fg", pod="relay-1"}': "5x120",
        },
        29,
        45,
        60,
    ),
    "FlowgroupRelayDoesNotDeliver": Case(
        {
            f'flowgroup_relay_spool_records{{{_R}, kind="logs"}}': "0x10 50x30 0x60",
            f'flowgroup_relay_delivered_total{{{_R}, kind="logs"}}': "0+9x10 90x30 99+9x60",
        },
        19,
        35,
        50,
    ),
    "FlowgroupRelaySpoolFilling": Case(
        {
            f'flowgroup_relay_spool_bytes{{{_R}, kind="logs"}}': "0x30 0+10x30 0x60",
            f'flowgroup_relay_spool_bytes{{{_R}, kind="events"}}': "0x120",
            f"flowgroup_relay_spool_limit_bytes{{{_R}}}": "1000x120",
        },
        35,
        59,
        110,
    ),
    "FlowgroupRelayLinesShed": Case(
        {
            f'flowgroup_relay_lines_shed_total{{{_R}, level="DEBUG"}}': "0x10 0+7x5 35x60",
            f'flowgroup_relay_lines_shed_total{{{_R}, level="INFO"}}': "0x80",
        },
        10,
        15,
        40,
    ),
    "FlowgroupRelayDeadLetters": Case(
        {f'flowgroup_relay_dead_letters_total{{{_R}, kind="events"}}': "0x10 2x60"}, 10, 15, 40
    ),
    "FlowgroupRelaySpoolSetAside": Case({f"flowgroup_relay_spool_set_aside_total{{{_R}}}": "0x10 1x120"}, 10, 30, 90),
    "FlowgroupRelayTokensRefused": Case(
        {
            f'flowgroup_relay_requests_total{{{_R}, outcome="unauthorized"}}': "0x10 0+120x20 2400x60",
            f'flowgroup_relay_requests_total{{{_R}, outcome="passed"}}': "0+9x90",
        },
        10,
        25,
        45,
    ),
}


def _promtool_case(alert: str, case: Case) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    others = f'count(ALERTS{{alertname!="{alert}", alertname!="FlowgroupDaemonDown", alertstate="firing"}})'
    none: list[Any] = []
    one = [{"labels": "{}", "value": 1}]
    wanted = ((firing, case.before, none), (firing, case.at, one), (firing, case.after, none), (others, case.at, none))
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}
            for expression, minute, samples in wanted
        ],
    }


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_ones_that_prometheus_reads() -> None:
    _run(tool("promtool"), "check", "rules", str(RULES))


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == alerts().keys()


def test_every_alert_fires_alone_and_clears(tmp_path: Path) -> None:
    """In one call of promtool, which names in its complaint the alert that was not as it should be."""
    cases = [_promtool_case(alert, case) for alert, case in CASES.items()]
    asked = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(asked))
    _run(tool("promtool"), "test", "rules", str(tmp_path / "case.yaml"))


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_names_metrics_that_there_are(alert: str) -> None:
    names = names_in(alerts()[alert]["expr"])
    assert names
    assert names <= exported()


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_has_a_page_that_says_what_to_do(alert: str) -> None:
    annotations = alerts()[alert]["annotations"]
    assert annotations["runbook_url"] == f"docs/runbooks/{alert}.md"
    page = (ROOT / annotations["runbook_url"]).read_text()
    assert page.startswith(f"# {alert}\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## What it means",
        "## What to look at",
        "## What to do",
    ]
    assert names_in(page) <= exported() | families()


def test_there_is_no_page_without_an_alert() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert pages - {"README"} == alerts().keys()
