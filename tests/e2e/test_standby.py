"""Two daemons for one pool, as the chart installs them: the one that leads is killed, frozen and replaced under load."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Installed
from tests.e2e.test_replaced import _deployed, _is_whole, stack, store  # noqa: F401 (fixtures)
from tests.real.stack import Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
_FLOW = Path(__file__).parent / "flows" / "ledger.py"
_BEATS, _EVERY_S = 45, 1.0


@pytest.fixture(scope="module")
def two(installed: Installed) -> Iterator[Installed]:
    """The installation with two daemons, by way of none; with one again at the end."""
    _scaled(installed, 0)
    wait_for(lambda: not _pods(installed), "no daemon is left", 90)
    _scaled(installed, 2)
    wait_for(lambda: _holder(installed), "one leads", 60)
    yield installed
    _scaled(installed, 0)
    wait_for(lambda: not _pods(installed), "no daemon is left", 90)
    _scaled(installed, 1)


@pytest.fixture(scope="module")
def deployment(two: Installed, stack: Stack, store: dict[str, str]) -> str:  # noqa: F811
    return _deployed(stack, store, _FLOW, "turns")


def _scaled(installed: Installed, replicas: int) -> None:
    values = ("--reuse-values", "--wait", "--timeout", "3m", "--set", f"daemon.replicas={replicas}")
    installed.helm("upgrade", installed.main.namespace, "helm/flowgroup", *values)


def _pods(installed: Installed) -> list[str]:
    pods = installed.main.json("get", "pods", "-l", "app.kubernetes.io/component=daemon")["items"]
    return [pod["metadata"]["name"] for pod in pods]


def _lease(installed: Installed) -> str:
    return f"{installed.main.namespace}-daemon-default"


def _holder(installed: Installed) -> str:
    """The pod that leads; "" if none does. Who leads has the pod's name, which is its host's, and a word behind it."""
    leases = installed.main.json("get", "leases")["items"]
    held = {lease["metadata"]["name"]: lease["spec"].get("holderIdentity") or "" for lease in leases}
    return str(held.get(_lease(installed), "")).rpartition("_")[0]


def _taken_over(installed: Installed, before: str, within_s: float) -> float:
    began = time.monotonic()
    wait_for(lambda: _holder(installed) not in ("", before), "another one leads", within_s)
    return time.monotonic() - began


def test_both_are_ready_and_on_their_own_lease(two: Installed) -> None:
    pods = two.main.json("get", "pods", "-l", "app.kubernetes.io/component=daemon")["items"]
    assert len(pods) == 2
    for pod in pods:
        assert {entry["type"]: entry["status"] for entry in pod["status"]["conditions"]}["Ready"] == "True"
    assert _holder(two) in _pods(two)


def test_a_leader_that_is_gone_without_a_word_is_followed_and_no_line_is_lost(
    two: Installed,
    stack: Stack,  # noqa: F811
    deployment: str,
) -> None:
    run = stack.start(deployment, beats=_BEATS, every_s=_EVERY_S)
    stack.wait(run, "Running", timeout_s=60)
    before = _holder(two)
    two.main("delete", "pod", before, "--grace-period=0", "--force")
    took_s = _taken_over(two, before, 30)
    print(f"taken over after {took_s:.1f} s")
    assert took_s <= 15.0
    meanwhile = stack.start(deployment, beats=1, every_s=0)
    assert stack.wait(meanwhile, timeout_s=60)["state_name"] == "Completed", stack.message(meanwhile)
    _is_whole(stack, run, _BEATS)


def test_a_leader_that_is_replaced_is_followed_at_once(two: Installed, stack: Stack, deployment: str) -> None:  # noqa: F811
    run = stack.start(deployment, beats=_BEATS, every_s=_EVERY_S)
    stack.wait(run, "Running", timeout_s=60)
    before = _holder(two)
    two.main("delete", "pod", before, "--wait=false")
    took_s = _taken_over(two, before, 30)
    print(f"taken over after {took_s:.1f} s")
    assert took_s <= 6.0  # kubectl and the pod's own way to its end are in it
    _is_whole(stack, run, _BEATS)


def test_a_rollout_of_both_loses_no_run(two: Installed, stack: Stack, deployment: str) -> None:  # noqa: F811
    run = stack.start(deployment, beats=_BEATS, every_s=_EVERY_S)
    stack.wait(run, "Running", timeout_s=60)
    before = set(_pods(two))
    two.main("rollout", "restart", f"deployment/{_lease(two)}")
    two.main("rollout", "status", f"deployment/{_lease(two)}", "--timeout=120s")
    wait_for(lambda: not before & set(_pods(two)), "the former ones are gone", 90)
    wait_for(lambda: _holder(two) in _pods(two), "a new one leads", 30)
    _is_whole(stack, run, _BEATS)
