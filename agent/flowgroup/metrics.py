"""Every metric that we export, declared on this one page. Own registry: importing Prefect fills the global one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()
_LATENCY = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)

POLLS = Counter("flowgroup_polls", "Polls for due runs", ["outcome"], registry=REGISTRY)
LAST_POLL = Gauge("flowgroup_last_successful_poll_timestamp_seconds", "When the last poll succeeded", registry=REGISTRY)
CLAIMS = Counter("flowgroup_claims", "Claims of due runs", ["outcome"], registry=REGISTRY)
RUNS_ACTIVE = Gauge("flowgroup_runs_active", "Runs under way", registry=REGISTRY)
SLOTS = Gauge("flowgroup_slots", "How many runs may be under way at once", registry=REGISTRY)
RUNS_FINISHED = Counter("flowgroup_runs_finished", "Runs that ended, by outcome", ["outcome"], registry=REGISTRY)
STAGE_SECONDS = Histogram(
    "flowgroup_stage_seconds",
    "How long each stage of a run's line took",
    ["stage"],
    buckets=_LATENCY,
    registry=REGISTRY,
)
SCHEDULE_TO_CLAIM = Histogram(
    "flowgroup_schedule_to_claim_seconds",
    "From a run's due time to its claim",
    buckets=_LATENCY,
    registry=REGISTRY,
)
CLUSTERS = Gauge("flowgroup_clusters", "Clusters that exist", registry=REGISTRY)
CLUSTERS_MADE = Counter("flowgroup_clusters_made", "Clusters made", registry=REGISTRY)
PREWARMS = Counter(
    "flowgroup_prewarms",
    "Clusters kept for a run ahead of its time, by what came of it",
    ["outcome"],
    registry=REGISTRY,
)
API_REQUESTS = Counter(
    "flowgroup_api_requests", "Calls to Prefect's API", ["route", "method", "code"], registry=REGISTRY
)
API_SECONDS = Histogram(
    "flowgroup_api_request_seconds",
    "How long a call to Prefect's API took",
    ["route", "method"],
    buckets=_LATENCY,
    registry=REGISTRY,
)
RELAY_REQUESTS = Counter("flowgroup_relay_requests", "Calls through the relay", ["outcome"], registry=REGISTRY)
RELAY_RECORDS = Counter(
    "flowgroup_relay_records",
    "Logs and events through the relay, and those that it refused",
    ["kind"],
    registry=REGISTRY,
)
EVENTS_CONNECTED = Gauge("flowgroup_events_connected", "1 while Prefect's event stream is connected", registry=REGISTRY)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
