"""The table of all metrics, from the page that declares them: `python -m flowgroup.dev.metrics [--write docs/metrics.md]`."""

from collections.abc import Iterator

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from flowgroup import metrics
from flowgroup.dev.made import give, plain

_HEAD = """\
# Metrics

Made from `agent/flowgroup/metrics.py` by `make docs`.

The daemon shows them at `/metrics` of `FLOWGROUP_HEALTH_PORT`; the relay at `/metrics` of
`FLOWGROUP_RELAY_METRICS_PORT`, and, to whoever shows the control key, at `/flowgroup/metrics`. On Kubernetes
`metrics.serviceMonitor` and `metrics.podMonitor` of the chart have them scraped, `metrics.prometheusRule` makes
[alerts](runbooks/README.md) of them and `metrics.dashboard` a Grafana dashboard; `deploy/monitoring.yaml` has all of these for
`kubectl apply`, and `helm/flowgroup/files` the rules and the dashboard as files.

- No label has the id of a run. `flow_group` has at most `FLOWGROUP_METRICS_FLOW_GROUPS` values (50): the groups that
  cost most lately; what the others cost is counted as `other`, so that the sum is right.
- What a group costs counts from when the daemon started. Processor time and memory are measured: of a driver and its
  runs every ten seconds, of Dask workers by their heartbeats; schedulers are not counted. GPUs are those that
  workers hold (`size`, `resources`), on Kubernetes only.
- `sum by (flow_group) (increase(flowgroup_cluster_gpu_seconds_total[1d])) / 3600` are the GPU hours of a day;
  `sum(rate(flowgroup_cluster_seconds_total{phase="idle"}[1d])) / sum(rate(flowgroup_cluster_seconds_total[1d]))` is
  the share of idle clusters.

| metric | type | labels | shown by | meaning |
|---|---|---|---|---|
"""
_SUFFIX = {"counter": "_total", "info": "_info"}


def declared() -> Iterator[tuple[str, MetricWrapperBase]]:
    """Every metric of the page, with who shows it, in the page's order."""
    rooms = {family.name: room for room, registry in metrics.ROOMS.items() for family in registry.collect()}
    for name, metric in vars(metrics).items():
        if isinstance(metric, MetricWrapperBase) and not name.startswith("_"):
            yield rooms[_family(metric).name], metric


def page() -> str:
    """The whole file."""
    rows = [_row(room, metric) for room, metric in declared()]
    process = [family for family in metrics.SHARED.collect() if family.name.startswith("flowgroup_process_")]
    rows += [
        f"| `{one.name}{_SUFFIX.get(one.type, '')}` | {one.type} | | daemon and relay | {plain(one.documentation)} |"
        for one in process
    ]
    return _HEAD + "\n".join([*rows, ""])


def labels_of(metric: MetricWrapperBase) -> tuple[str, ...]:
    return tuple(metric._labelnames)


def _family(metric: MetricWrapperBase) -> Metric:
    (family,) = metric.describe()
    return family


def _row(room: str, metric: MetricWrapperBase) -> str:
    family = _family(metric)
    labels = ", ".join(f"`{label}`" for label in labels_of(metric))
    name = f"{family.name}{_SUFFIX.get(family.type, '')}"
    return f"| `{name}` | {family.type} | {labels} | {room} | {plain(family.documentation)} |"


if __name__ == "__main__":
    give(page())
