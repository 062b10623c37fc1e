"""
Every metric that we export, declared on this one page: `docs/metrics.md` is made from it (`make docs`).

Own registries: importing Prefect fills the global one. A process shows its room's and what all have; what another room counts
would stand there as 0 for ever. No label has an id or another value that comes from outside, but for `flow_group`, whose
values are few (`daemon/costs.py`).
"""

import asyncio
import platform
import sys
from http import HTTPStatus
from types import MappingProxyType

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from flowgroup import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]  # else every counter has a second series that says since when

SHARED, DAEMON, RELAY = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
ROOMS = MappingProxyType({"daemon and relay": SHARED, "daemon": DAEMON, "relay": RELAY})
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_CALL = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LAG = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
_COMMIT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)

# Of all processes that show their figures.
BUILD = Info("flowgroup_build", "Which flowgroup this is", registry=SHARED)
BUILD.info({"version": __version__, "python": platform.python_version(), "os": sys.platform})
LOOP_LAG = Histogram(
    "flowgroup_event_loop_lag_seconds",
    "How long the event loop took to answer, asked every second",
    buckets=_LAG,
    registry=SHARED,
)
LOOP_BLOCKED = Counter(
    "flowgroup_event_loop_blocked",
    "How often the event loop did not answer for seconds; its stack is in the log",
    registry=SHARED,
)
STORE_REQUESTS = Counter(
    "flowgroup_store_requests",
    "Calls to the object store (for `presign`: signatures) by outcome: ok, refused, failed",
    ["operation", "outcome"],
    registry=SHARED,
)
STORE_SECONDS = Histogram(
    "flowgroup_store_request_seconds", "How long these took", ["operation"], buckets=_CALL, registry=SHARED
)
ProcessCollector(namespace="flowgroup", registry=SHARED)


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # whoever asks is no event loop
        return 0


TASKS = Gauge("flowgroup_tasks", "asyncio tasks of the process", registry=SHARED)
TASKS.set_function(_tasks)

# A run's line.
LEADING = Gauge("flowgroup_leading", "1 while this daemon serves the pool, 0 while it stands by", registry=DAEMON)
POLLS = Counter("flowgroup_polls", "Polls for due runs: ok, failed, unauthorized", ["outcome"], registry=DAEMON)
LAST_POLL = Gauge("flowgroup_last_successful_poll_timestamp_seconds", "When the last poll succeeded", registry=DAEMON)
EVENTS_CONNECTED = Gauge("flowgroup_events_connected", "1 while Prefect's event stream is connected", registry=DAEMON)
CLAIMS = Counter("flowgroup_claims", "Claims of due runs: accepted, refused", ["outcome"], registry=DAEMON)
RUNS_ACTIVE = Gauge("flowgroup_runs_active", "Runs under way", registry=DAEMON)
SLOTS = Gauge("flowgroup_slots", "How many runs may be under way at once", registry=DAEMON)
RUNS_FINISHED = Counter(
    "flowgroup_runs_finished",
    "Attempts that ended: reported (by the run's own engine: completed, failed, …), crashed, cancelled, givenback, skipped; "
    "lost (its infrastructure failed, and the run is another's by now)",
    ["outcome"],
    registry=DAEMON,
)
RUNS_UNDONE = Counter(
    "flowgroup_runs_undone",
    "Attempts that crashed or were given back, by the code of the cause (docs/troubleshooting.md); other: it has none",
    ["cause"],
    registry=DAEMON,
)
INFRASTRUCTURE_RETRIES = Counter(
    "flowgroup_infrastructure_retries",
    "Runs given back for another try because the infrastructure failed",
    registry=DAEMON,
)
RUNS_HELD = Gauge(
    "flowgroup_runs_held",
    "Due runs that wait for a limit or a cap, by whose and of what: `deployment.runs`, `pool.pods`, `group.cpu`, …",
    ["reason"],
    registry=DAEMON,
)
SCHEDULE_TO_CLAIM = Histogram(
    "flowgroup_schedule_to_claim_seconds", "From a run's due time to its claim", buckets=_LATENCY, registry=DAEMON
)
CLAIM_TO_RUNNING = Histogram(
    "flowgroup_claim_to_running_seconds",
    "From a run's claim to Running: what flowgroup and the cluster take",
    ["cluster"],
    buckets=_LATENCY,
    registry=DAEMON,
)
SCHEDULE_TO_RUNNING = Histogram(
    "flowgroup_schedule_to_running_seconds",
    "From a run's due time to Running: what its author sees. `cluster` is `warm` where it was ready when the run was claimed, "
    "else `cold`",
    ["cluster"],
    buckets=_LATENCY,
    registry=DAEMON,
)
STAGE_SECONDS = Histogram(
    "flowgroup_stage_seconds",
    "How long each stage of a run's line took: claimed, placed, sent, started (from sent to Running), told",
    ["stage"],
    buckets=_LATENCY,
    registry=DAEMON,
)

# Clusters, and what they cost.
CLUSTERS = Gauge(
    "flowgroup_clusters",
    "Clusters that exist, by phase: starting, busy, prewarmed (kept for a run that comes soon), idle",
    ["phase"],
    registry=DAEMON,
)
CLUSTERS_MADE = Counter("flowgroup_clusters_made", "Clusters made", registry=DAEMON)
CLUSTER_START = Histogram(
    "flowgroup_cluster_start_seconds",
    "From making a cluster to ready, of those that came to be",
    buckets=_LATENCY,
    registry=DAEMON,
)
PREWARMS = Counter(
    "flowgroup_prewarms",
    "Clusters kept for a run ahead of its time: hit (ready when the run came), late (not yet), unused (no run came)",
    ["outcome"],
    registry=DAEMON,
)
WORKERS = Gauge("flowgroup_workers", "Dask workers of all clusters: wanted, and there", ["state"], registry=DAEMON)
CLUSTER_SECONDS = Counter(
    "flowgroup_cluster_seconds",
    "How long clusters were there, by flow group and phase; idle ones cost as much as busy ones",
    ["flow_group", "phase"],
    registry=DAEMON,
)
CPU_SECONDS = Counter(
    "flowgroup_cluster_cpu_seconds",
    "Processor time that drivers, runs and workers used, by flow group",
    ["flow_group"],
    registry=DAEMON,
)
MEMORY_SECONDS = Counter(
    "flowgroup_cluster_memory_byte_seconds",
    "Memory that drivers, runs and workers used, times seconds, by flow group",
    ["flow_group"],
    registry=DAEMON,
)
GPU_SECONDS = Counter(
    "flowgroup_cluster_gpu_seconds",
    "GPUs that workers held, used or not, times seconds, by flow group",
    ["flow_group"],
    registry=DAEMON,
)

# What the daemon asks others.
API_REQUESTS = Counter(
    "flowgroup_api_requests",
    "The daemon's calls to Prefect's API, by the class of the answer's status (2xx, …; 429; none: no answer)",
    ["route", "method", "code"],
    registry=DAEMON,
)
API_SECONDS = Histogram(
    "flowgroup_api_request_seconds", "How long these took", ["route", "method"], buckets=_CALL, registry=DAEMON
)
KUBERNETES_REQUESTS = Counter(
    "flowgroup_kubernetes_requests",
    "The daemon's calls to Kubernetes' API, by the class of the answer's status",
    ["verb", "resource", "code"],
    registry=DAEMON,
)
KUBERNETES_SECONDS = Histogram(
    "flowgroup_kubernetes_request_seconds", "How long these took", ["verb", "resource"], buckets=_CALL, registry=DAEMON
)

# The relay and its spool.
RELAY_REQUESTS = Counter(
    "flowgroup_relay_requests",
    "Runs' calls: passed, away (told to come again), refused (not theirs to make), unauthorized (no good token), cut_off",
    ["outcome"],
    registry=RELAY,
)
RELAY_RECORDS = Counter(
    "flowgroup_relay_records",
    "Logs, events and states through the relay, and records that it refused",
    ["kind"],
    registry=RELAY,
)
RELAY_LEFT_BYTES = Counter(
    "flowgroup_relay_left_bytes", "Bytes of logs, events and states that were let out", ["kind"], registry=RELAY
)
RELAY_MASKED = Counter("flowgroup_relay_masked", "Secrets masked in what was let out", ["kind"], registry=RELAY)
RELAY_CUT = Counter("flowgroup_relay_cut", "Texts cut in what was let out", ["kind"], registry=RELAY)
RELAY_SPOOL_RECORDS = Gauge("flowgroup_relay_spool_records", "Records that wait on disk", ["kind"], registry=RELAY)
RELAY_SPOOL_BYTES = Gauge("flowgroup_relay_spool_bytes", "Their bytes", ["kind"], registry=RELAY)
RELAY_SPOOL_LIMIT = Gauge("flowgroup_relay_spool_limit_bytes", "How much may wait there", registry=RELAY)
RELAY_SPOOL_COMMITS = Counter("flowgroup_relay_spool_commits", "Commits of the relay's spool", registry=RELAY)
RELAY_SPOOL_COMMIT_SECONDS = Histogram(
    "flowgroup_relay_spool_commit_seconds", "How long each took, its sync included", buckets=_COMMIT, registry=RELAY
)
RELAY_SPOOL_WAITS = Counter(
    "flowgroup_relay_spool_waits", "Calls with records that Prefect's API did not take", ["kind"], registry=RELAY
)
RELAY_SPOOL_SET_ASIDE = Counter(
    "flowgroup_relay_spool_set_aside", "Spools that could not be read and were moved aside", registry=RELAY
)
RELAY_DELIVERED = Counter("flowgroup_relay_delivered", "Records that Prefect's API has taken", ["kind"], registry=RELAY)
RELAY_DEAD_LETTERS = Counter(
    "flowgroup_relay_dead_letters", "Records that Prefect's API refuses for ever", ["kind"], registry=RELAY
)
RELAY_LINES_SHED = Counter(
    "flowgroup_relay_lines_shed", "Lines dropped because the spool was full, by level", ["level"], registry=RELAY
)
RELAY_READ_BACK = Counter(
    "flowgroup_relay_read_back",
    "Lines whose call was not answered: there, missing and sent again, or unknown and sent again all the same",
    ["outcome"],
    registry=RELAY,
)


_KINDS = ("logs", "events")
_KNOWN: dict[Counter, tuple[str, ...]] = {
    POLLS: ("ok", "failed", "unauthorized"),
    CLAIMS: ("accepted", "refused"),
    RUNS_FINISHED: ("reported", "crashed", "cancelled", "givenback", "skipped", "lost"),
    PREWARMS: ("hit", "late", "unused"),
    RELAY_REQUESTS: ("passed", "away", "refused", "unauthorized", "cut_off"),
    RELAY_RECORDS: _KINDS,
    RELAY_SPOOL_WAITS: _KINDS,
    RELAY_DELIVERED: _KINDS,
    RELAY_DEAD_LETTERS: _KINDS,
    RELAY_LINES_SHED: ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
}
for _counter, _values in _KNOWN.items():  # from the start, for a first increase is one that an alert can see
    for _value in _values:
        _counter.labels(_value)


def code_class(status: int) -> str:
    """`2xx` for 204; 429, which asks us to be slower, is one of its own."""
    return "429" if status == HTTPStatus.TOO_MANY_REQUESTS else f"{status // 100}xx"


def exposition(room: CollectorRegistry) -> bytes:
    """What all processes show and the room's own, in Prometheus' text format."""
    return generate_latest(SHARED) + generate_latest(room)
