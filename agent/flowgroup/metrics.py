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
INFRASTRUCTURE_RETRIES = Counter(
    "flowgroup_infrastructure_retries",
    "Runs given back for another try because the infrastructure failed",
    registry=REGISTRY,
)
RUNS_HELD = Gauge(
    "flowgroup_runs_held",
    "Due runs that wait for a limit or a cap, by whose and of what",
    ["reason"],
    registry=REGISTRY,
)
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
    "Logs, events and states through the relay, and records that it refused",
    ["kind"],
    registry=REGISTRY,
)
RELAY_LEFT_BYTES = Counter(
    "flowgroup_relay_left_bytes", "Bytes of logs, events and states that were let out", ["kind"], registry=REGISTRY
)
RELAY_MASKED = Counter("flowgroup_relay_masked", "Secrets masked in what was let out", ["kind"], registry=REGISTRY)
RELAY_CUT = Counter("flowgroup_relay_cut", "Texts cut in what was let out", ["kind"], registry=REGISTRY)
RELAY_SPOOL_RECORDS = Gauge("flowgroup_relay_spool_records", "Records that wait on disk", ["kind"], registry=REGISTRY)
RELAY_SPOOL_BYTES = Gauge("flowgroup_relay_spool_bytes", "Their bytes", ["kind"], registry=REGISTRY)
RELAY_SPOOL_COMMITS = Counter("flowgroup_relay_spool_commits", "Commits of the relay's spool", registry=REGISTRY)
RELAY_SPOOL_WAITS = Counter(
    "flowgroup_relay_spool_waits", "Calls with records that Prefect's API did not take", ["kind"], registry=REGISTRY
)
RELAY_SPOOL_SET_ASIDE = Counter(
    "flowgroup_relay_spool_set_aside", "Spools that could not be read and were moved aside", registry=REGISTRY
)
RELAY_DELIVERED = Counter(
    "flowgroup_relay_delivered", "Records that Prefect's API has taken", ["kind"], registry=REGISTRY
)
RELAY_DEAD_LETTERS = Counter(
    "flowgroup_relay_dead_letters", "Records that Prefect's API refuses for ever", ["kind"], registry=REGISTRY
)
RELAY_LINES_SHED = Counter(
    "flowgroup_relay_lines_shed", "Lines dropped because the spool was full, by level", ["level"], registry=REGISTRY
)
RELAY_READ_BACK = Counter(
    "flowgroup_relay_read_back",
    "Lines whose call was not answered: there, missing and sent again, or sent again because that could not be known",
    ["outcome"],
    registry=REGISTRY,
)
EVENTS_CONNECTED = Gauge("flowgroup_events_connected", "1 while Prefect's event stream is connected", registry=REGISTRY)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
