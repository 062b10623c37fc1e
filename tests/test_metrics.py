"""The page of metrics: what it declares, who shows what, and that its table is not stale."""

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from flowgroup import metrics
from flowgroup.dev.metrics import declared, labels_of, page
from tests.monitoring.tools import ROOT

# Each with a handful of values, but for `route` (ours, with its ids left out) and `flow_group` (capped).
_LABELS = {
    "cause",
    "cluster",
    "code",
    "flow_group",
    "kind",
    "level",
    "method",
    "operation",
    "outcome",
    "phase",
    "reason",
    "resource",
    "route",
    "stage",
    "state",
    "verb",
}


def test_every_name_has_our_prefix_and_says_its_unit() -> None:
    for _, metric in declared():
        (family,) = metric.describe()
        assert family.name.startswith("flowgroup_")
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_labels_are_exactly_these_and_so_none_has_an_id() -> None:
    assert {label for _, metric in declared() for label in labels_of(metric)} == _LABELS


def test_a_metric_is_shown_once() -> None:
    rows = [line.split(" ")[1] for line in page().splitlines() if line.startswith("| `flowgroup_")]
    assert len(rows) == len(set(rows)) > 45
    names = [family.name for registry in metrics.ROOMS.values() for family in registry.collect()]
    assert len(names) == len(set(names)) > 45


def test_a_room_shows_what_is_its_own_and_what_all_have() -> None:
    nobodys = CollectorRegistry()
    daemon, relay, shared = (_shown(room) for room in (metrics.DAEMON, metrics.RELAY, nobodys))
    assert daemon & relay == shared
    assert "flowgroup_slots" in daemon
    assert not any(name.startswith("flowgroup_relay_") for name in daemon)
    assert all(name.startswith("flowgroup_relay_") for name in relay - shared)


def _shown(room: CollectorRegistry) -> set[str]:
    return {family.name for family in text_string_to_metric_families(metrics.exposition(room).decode())}


def test_what_may_be_counted_stands_at_0_before_it_is() -> None:
    text = metrics.exposition(metrics.RELAY)
    assert b'flowgroup_relay_dead_letters_total{kind="logs"}' in text
    assert b'flowgroup_relay_lines_shed_total{level="DEBUG"}' in text


def test_statuses_are_counted_by_their_class() -> None:
    assert [metrics.code_class(status) for status in (200, 204, 404, 429, 503)] == ["2xx", "2xx", "4xx", "429", "5xx"]


def test_the_table_in_the_docs_is_made_from_the_page() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page(), "stale: run `make docs`"
