"""A flow that does what ordinary flows do. Run as a child would run it: by `python real_flow.py`."""

import json
import os
import uuid
from collections.abc import Callable
from typing import Any

from prefect import flow, get_run_logger, pause_flow_run, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.blocks.system import Secret
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency, rate_limit
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.states import Cancelled
from prefect.variables import Variable

OTHER = uuid.UUID(os.environ["TEST_OTHER_RUN"])
_tries: list[int] = []


@task(retries=1, retry_delay_seconds=0)
def fails_once() -> int:
    _tries.append(1)
    if len(_tries) == 1:
        raise ValueError("once")
    return 1


@task(tags=["relay-test"])
def limited() -> int:
    get_run_logger().info("from a task")
    return 2


@task(cache_policy=INPUTS, persist_result=True)
def cached(x: int) -> int:
    return x


@flow(name="relay-sub")
def sub(x: int) -> int:
    get_run_logger().info("from a subflow")
    return x + limited()


@task
def makes_artifacts() -> None:
    create_markdown_artifact("# hi", key="relay-note")
    progress: Any = create_progress_artifact(0.0, key="relay-progress")
    update_progress_artifact(progress, 50.0)


def refused() -> list[str]:
    """What the relay says to what no ordinary flow does."""
    said = []
    with get_client(sync_client=True) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.set_flow_run_state(OTHER, Cancelled()),
            lambda: client.request("POST", "/logs/", json=[{"flow_run_id": str(OTHER), "message": "x", "level": 20}]),
            lambda: client.delete_flow_run(OTHER),
            lambda: client.request("GET", "/admin/settings"),
        ]
        for call in calls:
            try:
                call()
            except PrefectHTTPStatusError as exc:
                said.append(f"{exc.response.status_code} {exc.response.text}")
            else:
                said.append("it passed")
    return said


@flow(name="relay-main", on_completion=[lambda flow, run, state: print("hook ran")], timeout_seconds=120)
def main() -> dict[str, object]:
    get_run_logger().info("from the flow")
    pause_flow_run(timeout=30, poll_interval=1)
    name = f"relay_{uuid.uuid4().hex[:8]}"
    Variable.set(name, {"a": 1})
    with concurrency("relay-slots", occupy=1):
        rate_limit("relay-rate")
    emit_event("relay.tested", resource={"prefect.resource.id": "relay.test"})
    makes_artifacts()
    secret: Any = Secret.load("relay-secret")
    deployed: Any = run_deployment("relay-main/relay", timeout=0)
    return {
        "tasks": [fails_once(), limited(), cached(1), cached(1), sub(3)],
        "submitted": [one.result() for one in [limited.submit() for _ in range(3)]],
        "secret": secret.get(),
        "variable": Variable.get(name),
        "deployed": str(deployed.id),
        "refused": refused(),
    }


if __name__ == "__main__":
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(uuid.UUID(os.environ["TEST_RUN"]))
    made = run_flow(main, flow_run=run)
    print("MADE " + json.dumps({"made": made, "env": dict(os.environ)}))
