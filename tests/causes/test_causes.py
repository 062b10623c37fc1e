"""
The table of causes: each row told from recorded words (`golden/`), word for word, and the page that is made of it.

A file of `golden/` has what Kubernetes, a driver, Dask or the kernel says (`input`), which of our readers gets it (`source`)
and what is said of it in the end (`said`). They have the shapes of Kubernetes' API and the words of kubelet, containerd, the
scheduler and the API server, written after those and not taken off a cluster; tests/e2e/test_causes.py meets the real ones.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from flowgroup.dev.troubleshooting import page
from flowgroup.model.causes import ROWS, code_of, marked, said
from tests.causes.reading import told

GOLDEN = Path(__file__).with_name("golden")
DOCS = Path(__file__).parents[2] / "docs"
FILES = sorted(GOLDEN.glob("*.json"))
# Of two codes in a message the first one is the cause; these are what came of it.
OF_ANOTHER = {"killed-worker", "scheduler-died", "worker-lost.scheduler"}
SPECIFIED = {
    "oom-container",
    "oom-child",
    "oom-node",
    "oom-group",
    "evicted-memory",
    "evicted-disk",
    "evicted-pid",
    "preempted",
    "node-lost",
    "image-unauthorised",
    "image-not-found",
    "image-rate-limit",
    "image-name-invalid",
    "missing-secret",
    "missing-configmap",
    "container-cannot-start",
    "crash-loop",
    "unschedulable-cpu",
    "unschedulable-memory",
    "unschedulable-gpu",
    "unschedulable-taint",
    "unschedulable-affinity",
    "unschedulable-volume",
    "mount-failed",
    "quota",
    "webhook-denied",
    "deadline",
    "sandbox-failed",
    "scheduler-died",
    "killed-worker",
    "worker-lost",
    "no-workers",
    "versions-differ",
    "bundle-refused",
    "storage-away",
    "child-signal",
    "child-exit",
}


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_told_from_what_is_recorded(file: Path) -> None:
    golden = read(file)
    code = file.stem.partition(".")[0]
    words = told(golden["source"], golden["input"], code)
    assert words == golden["said"]
    assert f"[{code}]" in words
    assert code_of(words) == ("oom-container" if file.stem in OF_ANOTHER else code)


def test_every_row_has_a_golden_message_and_a_name_of_its_own() -> None:
    codes = [row.code for row in ROWS]
    assert len(set(codes)) == len(codes)
    assert {file.stem.partition(".")[0] for file in FILES} == set(codes)


def test_all_causes_of_the_specification_are_rows() -> None:
    assert {row.code for row in ROWS} >= SPECIFIED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.code)
def test_a_row_says_cause_and_remedy(row: Any) -> None:
    assert row.told_by
    assert row.words != row.remedy
    assert row.remedy.strip()


def test_the_code_is_found_whatever_is_around_it_and_nothing_else_is_taken_for_one() -> None:
    assert (
        code_of("Cluster x ended: " + said("pod-deleted", who="driver") + " Its last lines:\n[quota]") == "pod-deleted"
    )
    assert code_of("a list [1, 2] and [unknown-word]") is None
    assert code_of(marked("bundle-refused", "no")) == "bundle-refused"
    with pytest.raises(KeyError):
        marked("no-such-cause", "no")
    with pytest.raises(KeyError):
        said("oom-container", who="driver")


def test_the_page_is_made_of_the_rows() -> None:
    assert (DOCS / "troubleshooting.md").read_text() == page(), "python -m flowgroup.dev.troubleshooting > docs/…"
