"""The Grafana dashboard: `python helm/dashboard.py` prints it, `--write` writes it to the chart's files."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "flowgroup" / "files" / "dashboard.json"
_OF = 'namespace=~"$namespace"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 8, 7


@dataclass(frozen=True)
class Panel:
    """`expressions`: legend to PromQL, in which `%` stands for the selector of the chosen namespaces."""

    title: str
    expressions: dict[str, str]
    unit: str = "short"
    said: str = ""
    kind: str = "timeseries"


def _quantiles(metric: str, more: str = "", by: str = "") -> dict[str, str]:
    named = f"{{{{{by}}}}} " if by else ""
    groups = f"le, {by}" if by else "le"
    return {
        f"{named}p{percent}": f"histogram_quantile(0.{percent}, sum by ({groups}) (rate({metric}_bucket{{%{more}}}[$__rate_interval])))"
        for percent in (50, 95)
    }


def _rate(metric: str, by: str, more: str = "") -> dict[str, str]:
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return {legend: f"sum by ({by}) (rate({metric}{{%{more}}}[$__rate_interval]))"}


_ENDED = "sum(increase(flowgroup_runs_finished_total{%}[$__range]))"
_CRASHED = 'sum(increase(flowgroup_runs_finished_total{%, outcome="crashed"}[$__range]))'
_COST = "topk(10, sum by (flow_group) (increase(flowgroup_cluster_%s_total{%%}[$__range])))"
_GIB_HOURS = (
    "topk(10, sum by (flow_group) (increase(flowgroup_cluster_memory_byte_seconds_total{%}[$__range])) / 2^30 / 3600)"
)

ROWS: dict[str, list[Panel]] = {
    "Runs": [
        Panel(
            "Runs under way, and slots",
            {"under way": "sum(flowgroup_runs_active{%})", "slots": "sum(flowgroup_slots{%})"},
        ),
        Panel(
            "Ended, a minute",
            {"{{outcome}}": "60 * sum by (outcome) (rate(flowgroup_runs_finished_total{%}[$__rate_interval]))"},
        ),
        Panel("Share that crashed", {"": f"{_CRASHED} / {_ENDED}"}, "percentunit", kind="stat"),
        Panel(
            "Crashed or given back by cause, a minute",
            {"{{cause}}": "60 * sum by (cause) (rate(flowgroup_runs_undone_total{%}[$__rate_interval]))"},
        ),
        Panel(
            "Claims, a minute",
            {"{{outcome}}": "60 * sum by (outcome) (rate(flowgroup_claims_total{%}[$__rate_interval]))"},
        ),
        Panel(
            "Since the last good poll", {"{{pod}}": "time() - flowgroup_last_successful_poll_timestamp_seconds{%} and flowgroup_leading{%} == 1"}, "s"
        ),
    ],
    "How long runs take to start": [
        Panel(
            "Due to Running",
            _quantiles("flowgroup_schedule_to_running_seconds", by="cluster"),
            "s",
            "On clusters that were ready (warm) and that were not (cold).",
        ),
        Panel("Due to claimed", _quantiles("flowgroup_schedule_to_claim_seconds"), "s"),
        Panel("Claimed to Running", _quantiles("flowgroup_claim_to_running_seconds", by="cluster"), "s"),
        Panel(
            "Stages, p95",
            {
                "{{stage}}": "histogram_quantile(0.95, sum by (le, stage) (rate(flowgroup_stage_seconds_bucket{%}[$__rate_interval])))"
            },
            "s",
        ),
        Panel("Clusters becoming ready", _quantiles("flowgroup_cluster_start_seconds"), "s"),
        Panel("Clusters made ahead", _rate("flowgroup_prewarms_total", "outcome")),
    ],
    "Clusters, and what they cost": [
        Panel("Clusters by phase", {"{{phase}}": "sum by (phase) (flowgroup_clusters{%})"}),
        Panel("Dask workers", {"{{state}}": "sum by (state) (flowgroup_workers{%})"}),
        Panel(
            "Share of idle cluster time",
            {
                "": 'sum(increase(flowgroup_cluster_seconds_total{%, phase="idle"}[$__range])) / sum(increase(flowgroup_cluster_seconds_total{%}[$__range]))'
            },
            "percentunit",
            kind="stat",
        ),
        Panel("CPU hours by flow group", {"{{flow_group}}": f"{_COST % 'cpu_seconds'} / 3600"}, kind="bargauge"),
        Panel("GPU hours by flow group", {"{{flow_group}}": f"{_COST % 'gpu_seconds'} / 3600"}, kind="bargauge"),
        Panel("GiB hours of memory by flow group", {"{{flow_group}}": _GIB_HOURS}, kind="bargauge"),
    ],
    "What the daemon asks others": [
        Panel("Calls to Prefect's API", _rate("flowgroup_api_requests_total", "code"), "reqps"),
        Panel(
            "…how long, p95 by route",
            {
                "{{method}} {{route}}": "histogram_quantile(0.95, sum by (le, method, route) (rate(flowgroup_api_request_seconds_bucket{%}[$__rate_interval])))"
            },
            "s",
        ),
        Panel("Event stream connected", {"{{pod}}": "flowgroup_events_connected{%}"}),
        Panel("Calls to Kubernetes' API", _rate("flowgroup_kubernetes_requests_total", "verb, code"), "reqps"),
        Panel(
            "…how long, p95",
            {
                "{{verb}} {{resource}}": "histogram_quantile(0.95, sum by (le, verb, resource) (rate(flowgroup_kubernetes_request_seconds_bucket{%}[$__rate_interval])))"
            },
            "s",
        ),
        Panel("Object store", _rate("flowgroup_store_requests_total", "operation, outcome"), "reqps"),
    ],
    "Relay and spool": [
        Panel("Runs' calls", _rate("flowgroup_relay_requests_total", "outcome"), "reqps"),
        Panel("Records stored", _rate("flowgroup_relay_records_total", "kind"), "reqps"),
        Panel("Records delivered", _rate("flowgroup_relay_delivered_total", "kind"), "reqps"),
        Panel("Records that wait", {"{{pod}} {{kind}}": "sum by (pod, kind) (flowgroup_relay_spool_records{%})"}),
        Panel(
            "How full the spool is",
            {
                "{{pod}}": "sum by (pod) (flowgroup_relay_spool_bytes{%}) / sum by (pod) (flowgroup_relay_spool_limit_bytes{%})"
            },
            "percentunit",
        ),
        Panel("Commits", _quantiles("flowgroup_relay_spool_commit_seconds"), "s"),
        Panel("Lines shed", _rate("flowgroup_relay_lines_shed_total", "level")),
        Panel("Dead letters", _rate("flowgroup_relay_dead_letters_total", "kind")),
        Panel("Deliveries that were not taken", _rate("flowgroup_relay_spool_waits_total", "kind")),
    ],
    "Processes": [
        Panel("Processor", {"{{pod}}": "rate(flowgroup_process_cpu_seconds_total{%}[$__rate_interval])"}),
        Panel("Memory", {"{{pod}}": "flowgroup_process_resident_memory_bytes{%}"}, "bytes"),
        Panel(
            "Event loop lag, p95",
            {
                "{{pod}}": "histogram_quantile(0.95, sum by (le, pod) (rate(flowgroup_event_loop_lag_seconds_bucket{%}[$__rate_interval])))"
            },
            "s",
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The whole dashboard."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(_placed({"type": "row", "title": title, "panels": []}, len(panels), 0, top, 24, 1))
        top += 1
        for number, panel in enumerate(row):
            left, below = number % 3 * _WIDTH, number // 3 * _HEIGHT
            panels.append(_placed(_panel(panel), len(panels), left, top + below, _WIDTH, _HEIGHT))
        top += -(-len(row) // 3) * _HEIGHT
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "namespace",
            "type": "query",
            "datasource": _SOURCE,
            "query": "label_values(flowgroup_build_info, namespace)",
            "includeAll": True,
            "multi": True,
            "allValue": ".*",  # where nobody adds namespaces too
            "current": {"text": "All", "value": "$__all"},
            "refresh": 2,
        },
    ]
    return {
        "uid": "flowgroup",
        "title": "flowgroup",
        "tags": ["prefect", "dask"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }


def _placed(panel: dict[str, Any], number: int, left: int, top: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, **panel, "gridPos": {"x": left, "y": top, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    instant = panel.kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "expr": expression.replace("%", _OF),
            "legendFormat": legend or panel.title,
            "instant": instant,
        }
        for number, (legend, expression) in enumerate(panel.expressions.items())
    ]
    defaults = {"unit": panel.unit, "min": 0}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.said,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


if __name__ == "__main__":
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if "--write" in sys.argv[1:]:
        FILE.write_text(text)
    else:
        sys.stdout.write(text)
