"""What the zygote imports and makes once, so that no child has to: what Prefect imports only when a run first needs it."""

import importlib

from prefect import flow

from flowgroup.driver import lean, tasks  # noqa: F401  (tasks: distributed and prefect-dask with it)

_LATE = (
    "pydantic.v1",
    "rich._emoji_codes",
    "rich.emoji",
    "rich.traceback",
    "prefect._internal.analytics",
    "prefect._internal.observers",
    "prefect.client.schemas.actions",
    "prefect.client.schemas.filters",
    "prefect.deployments.steps.core",
    "prefect.deployments.steps.pull",
    "prefect.events.related",
    "prefect.filesystems",
    "prefect.utilities.timeout",
    "psutil",
)


def preload() -> None:
    """In the zygote, before it serves. What is not there in another version of Prefect is left out."""
    for name in _LATE:
        try:
            importlib.import_module(name)
        except ImportError:
            continue

    @flow
    def rehearsal(number: int = 0) -> int:
        return number

    rehearsal.validate_parameters({"number": 1})
    lean.fitting()
    lean.make_tls_context()
