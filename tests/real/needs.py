"""What the flow `lab`'s tasks_on_dask wants to find at the API, and what it finds there."""

import httpx

OF_TASKS_ON_DASK = {
    "serial": True,
    "cached": [42, 42],
    "secrets": {  # in logs, secrets are masked
        "secret": "********",
        "backwards": "terces a",
        "variable": "a variable",
        "names": ["PREFECT_API_URL"],
    },
    "large": 8_000_000,
    "same_class": True,
    "lazy": [1, True],
    "failed": "Failed",
    "flaky": 3,
    "later": 2,
    "nested": 2,
    "inner": 2,
    "waited": 6,
}


def provide(api: httpx.Client) -> None:
    """A limit, a variable and a secret. What is there already stays."""
    api.post("/concurrency_limits/", json={"tag": "flowgroup-one-at-a-time", "concurrency_limit": 1})
    api.post("/variables/", json={"name": "flowgroup_test", "value": "a variable"})
    kind = api.get("/block_types/slug/secret").json()["id"]
    schemas = api.post("/block_schemas/filter", json={"block_schemas": {"block_type_id": {"any_": [kind]}}}).json()
    body = {
        "name": "flowgroup-test",
        "data": {"value": "a secret"},
        "block_type_id": kind,
        "block_schema_id": schemas[0]["id"],
    }
    api.post("/block_documents/", json=body)
