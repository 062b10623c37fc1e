"""The words that a worker, the scheduler and a run's child share. Imports nothing: the scheduler imports it too."""

from typing import Any

REPLY = "flowgroup_reply"


def topic_of(client_id: str) -> str:
    """Where workers speak to the child whose Dask client this is."""
    return f"flowgroup-{client_id}"


def forget(topic: str, dask_scheduler: Any = None) -> None:
    """On the scheduler: it keeps the last messages of every topic for ever."""
    dask_scheduler._broker._topics.pop(topic, None)
