"""
Futures of tasks on the group's workers.

Small final states come to the child with the task's last events: asking for a result then needs no call to a worker. On a
worker, a task that waits for tasks lends its thread to them: else as many waiting tasks as there are threads would wait for
ever.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import UUID
from weakref import WeakValueDictionary

import cloudpickle
import distributed
from distributed.utils import thread_state  # type: ignore[attr-defined]
from prefect.futures import PrefectFuture
from prefect_dask.task_runners import PrefectDaskFuture


class GroupFuture(PrefectDaskFuture[Any]):
    """As PrefectDaskFuture. `told` is the final state as bytes, once it has been heard."""

    _made: ClassVar["WeakValueDictionary[str, GroupFuture]"] = WeakValueDictionary()

    def __init__(self, task_run_id: UUID, wrapped_future: Any) -> None:
        super().__init__(wrapped_future=wrapped_future, task_run_id=task_run_id)
        self._told: bytes | None = None

    def expect_to_be_told(self) -> "GroupFuture":
        self._made[str(self._task_run_id)] = self
        return self

    @classmethod
    def hear(cls, task_run_id: str, state: bytes) -> None:
        """The final state of a task run, from the worker that ran it."""
        future = cls._made.get(task_run_id)
        if future is not None:
            future._told = state

    def wait(self, timeout: float | None = None) -> None:
        left = self._settle(timeout)
        if not self._final_state:
            super().wait(left)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        left = self._settle(timeout)
        return super().result(left, raise_on_failure)

    def add_done_callback(self, fn: Callable[[PrefectFuture[Any]], None]) -> None:
        """Prefect's `as_completed` and `wait` call this just before they wait."""
        if not self._is_settled():
            lend_thread()
        super().add_done_callback(fn)

    def _is_settled(self) -> bool:
        if not self._final_state and self._told is not None:
            self._final_state, self._told = cloudpickle.loads(self._told), None
        return self._final_state is not None

    def _settle(self, timeout: float | None) -> float | None:
        """Wait until the task run has ended, and take its state if it was told. What is left of the time."""
        if self._is_settled():
            return timeout
        if not self._wrapped_future.done():
            lend_thread()
        began = time.monotonic()
        unless_ended = contextlib.suppress(
            distributed.TimeoutError, distributed.CancelledError
        )  # the stock future says so
        with unless_ended, self._wrapped_future.client.as_current():
            distributed.wait([self._wrapped_future], timeout=timeout)
        self._is_settled()
        return None if timeout is None else max(timeout - (time.monotonic() - began), 0.001)


def lend_thread() -> None:
    """
    In the thread of a Dask task: other tasks may run beside it from now on until it ends. Elsewhere nothing happens.

    It does not ask for its thread back: who got it may be waiting for something that this task holds.
    """
    if getattr(thread_state, "key", None) is not None:
        with contextlib.suppress(KeyError):  # it was lent before
            distributed.secede()
