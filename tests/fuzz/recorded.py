"""What real servers said: Prefect 3.8.8, Kubernetes 1.33, the Dask operator, a driver. Ids are made up."""

from typing import Any

RUN = "8d7ab1c2-0000-4000-8000-000000000000"
DEPLOYMENT = "11111111-1111-4111-8111-111111111111"
FLOW = "22222222-2222-4222-8222-222222222222"
ATTEMPT = "33333333-3333-4333-8333-333333333333"

STATE: dict[str, Any] = {
    "id": "44444444-4444-4444-8444-444444444444",
    "type": "PENDING",
    "name": "Pending",
    "timestamp": "2026-11-22T22:00:00.123456Z",
    "message": None,
    "data": None,
    "state_details": {
        "flow_run_id": RUN,
        "transition_id": ATTEMPT,
        "deployment_concurrency_lease_id": None,
        "pause_reschedule": False,
        "scheduled_time": None,
    },
}
FLOW_RUN: dict[str, Any] = {
    "id": RUN,
    "created": "2026-11-22T21:59:00Z",
    "name": "curious-otter",
    "flow_id": FLOW,
    "state_id": None,
    "deployment_id": DEPLOYMENT,
    "deployment_version": "v1",
    "work_queue_id": "55555555-5555-4555-8555-555555555555",
    "parameters": {"x": 1},
    "tags": ["a"],
    "labels": {"prefect.flow.id": FLOW},
    "empirical_policy": {"retry_type": None, "retries": 0},
    "expected_start_time": "2026-11-22T22:00:00Z",
    "next_scheduled_start_time": "2026-11-22T22:00:00Z",
    "job_variables": {"workers": 2, "env": {"A": "b"}},
    "state_type": "PENDING",
    "state_name": "Pending",
    "state": STATE,
}
SCHEDULED: dict[str, Any] = {
    "work_pool_id": "66666666-6666-4666-8666-666666666666",
    "work_queue_id": "55555555-5555-4555-8555-555555555555",
    "flow_run": {**FLOW_RUN, "state": None},
}
SET_STATE: dict[str, Any] = {"state": STATE, "status": "ACCEPT", "details": {"type": "accept_details"}}
POOL: dict[str, Any] = {
    "id": "66666666-6666-4666-8666-666666666666",
    "name": "pool",
    "type": "dask",
    "base_job_template": {
        "job_configuration": {"image": "{{ image }}"},
        "variables": {"type": "object", "properties": {"image": {"type": "string", "default": "x:1"}}},
    },
    "is_paused": False,
    "status": "READY",
}
DEPLOYED: dict[str, Any] = {
    "id": DEPLOYMENT,
    "name": "dev",
    "flow_id": FLOW,
    "version": "v1",
    "entrypoint": "flow.py:etl",
    "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": "/opt"}}],
    "job_variables": {"workers": 1, "env": {"A": "b"}},
    "tags": ["t"],
    "version_id": "77777777-7777-4777-8777-777777777777",
    "version_info": {"type": "simple", "version": "v1"},
}
ANSWERS: dict[str, Any] = {
    "get_scheduled_flow_runs": [SCHEDULED, SCHEDULED],
    "flow_runs/filter": [FLOW_RUN, FLOW_RUN],
    "flow_runs/count": 1,
    "set_state": SET_STATE,
    "flow_run_states": [{**STATE, "type": "SCHEDULED", "name": "Scheduled"}, STATE, {**STATE, "type": "RUNNING"}],
    "flow_runs": FLOW_RUN,
    "deployments": DEPLOYED,
    "flows": {"id": FLOW, "name": "etl", "tags": []},
    "work_queues": {"id": "55555555-5555-4555-8555-555555555555", "name": "default"},
    "block_documents": {"data": {"value": "secret"}, "name": "b"},
    "variables": {"name": "v", "value": {"a": 1}},
    "admin/storage": {"default_result_storage_block_id": None},
    "work_pools": POOL,
}

EVENT: dict[str, Any] = {
    "type": "event",
    "event": {
        "id": "88888888-8888-4888-8888-888888888888",
        "event": "prefect.flow-run.Cancelling",
        "occurred": "2026-11-22T22:00:00Z",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{RUN}"},
        "related": [{"prefect.resource.id": "prefect.work-pool.x", "prefect.resource.role": "work-pool"}],
        "payload": {},
    },
}
TEARDOWN: dict[str, Any] = {
    "type": "cleanup.message.v1",
    "id": "99999999-9999-4999-8999-999999999999",
    "sent_at": "2026-11-22T22:05:00Z",
    "payload": {
        "message_id": "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
        "kind": "cancelling_timeout_teardown.v1",
        "reservation_token": "token",
        "lease_expires_at": "2026-11-22T22:05:30Z",
        "delivery_count": 1,
        "work_queue_id": None,
        "target": {"flow_run_id": RUN, "infrastructure_pid": None},
        "data": {},
    },
}

HELLO = {"type": "hello", "cluster": "etl-1234", "secret": "s", "python": "3.11", "prefect": "3.8.8", "pid": 7}
STATUS: dict[str, Any] = {
    "type": "status",
    "ready": True,
    "workers": 1,
    "attempts": [
        {"run_id": RUN, "attempt": ATTEMPT, "phase": "running", "exit": None},
        {"run_id": RUN, "attempt": "b", "phase": "ended", "exit": {"code": 1, "tail": "x", "reported": False}},
    ],
    "seals": ["seal.mac"],
    "groups": {"default": {"wanted": 2, "there": 1, "retired": ["worker-1"]}},
}
ORDER: dict[str, Any] = {
    "type": "order",
    "run_id": RUN,
    "run_name": "curious-otter",
    "flow_name": "etl",
    "attempt": ATTEMPT,
    "token": "token",
    "start_at": 1.5,
    "code": {"kind": "prefect"},
    "env": {"A": "b"},
    "flow_run": FLOW_RUN,
    "related": [],
    "remarks": [{"text": "hello"}],
}
CONTROLS: tuple[dict[str, Any], ...] = (
    {"type": "cancel", "attempt": ATTEMPT, "grace_s": 8.0},
    {"type": "forget", "attempts": [ATTEMPT]},
    {"type": "suspend", "attempt": ATTEMPT},
    {"type": "shutdown"},
)

POD: dict[str, Any] = {
    "metadata": {
        "name": "etl-1234-driver",
        "uid": "uid-1",
        "labels": {"flowgroup.dev/cluster": "etl-1234", "flowgroup.dev/role": "driver"},
        "deletionTimestamp": "2026-11-22T22:00:00Z",
        "annotations": {},
    },
    "spec": {"containers": [{"name": "driver", "image": "runtime:1"}]},
    "status": {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on resource: memory.",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
        ],
        "containerStatuses": [
            {
                "name": "driver",
                "imageID": "runtime@sha256:00",
                "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "last words"}},
            }
        ],
        "initContainerStatuses": [],
    },
}
OWNER: dict[str, Any] = {
    "metadata": {
        "name": "etl-1234",
        "uid": "uid-2",
        "creationTimestamp": "2026-11-22T21:00:00Z",
        "resourceVersion": "12",
        "finalizers": ["kopf.zalando.org/KopfFinalizerMarker"],
        "annotations": {"flowgroup.dev/workers": "2", "flowgroup.dev/good-for-s": "180"},
    }
}
