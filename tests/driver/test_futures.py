"""Final states that were told need no call to a worker."""

import gc
from typing import Any
from uuid import uuid4

import pytest
from prefect.futures import as_completed, wait
from prefect.states import Completed, Failed

from flowgroup.driver.futures import GroupFuture, lend_thread
from flowgroup.driver.pickles import dumped


class Untouched:
    """Stands for a Dask future that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the Dask future was asked for {name}")


def future() -> GroupFuture:
    return GroupFuture(uuid4(), Untouched()).expect_to_be_told()


def told(made: GroupFuture, state: Any) -> GroupFuture:
    GroupFuture.hear(str(made._task_run_id), dumped(state))
    return made


def test_a_told_result_is_not_asked_for() -> None:
    made = told(future(), Completed(data=42))
    assert (made.result(), made.result(timeout=0.1), made.state.name) == (42, 42, "Completed")
    made.wait()


def test_a_told_failure_is_raised_or_given() -> None:
    made = told(future(), Failed(data=ValueError("on purpose")))
    with pytest.raises(ValueError, match="on purpose"):
        made.result()
    assert isinstance(made.result(raise_on_failure=False), ValueError)


def test_told_futures_are_done_for_prefects_own_functions() -> None:
    several: list[Any] = [told(future(), Completed(data=number)) for number in range(3)]
    called: list[Any] = []
    several[0].add_done_callback(called.append)
    assert called == [several[0]]
    assert sorted(one.result() for one in as_completed(several)) == [0, 1, 2]
    done, not_done = wait(several)
    assert (len(done), len(not_done)) == (3, 0)


def test_nobody_keeps_a_future_for_what_may_be_told() -> None:
    made = future()
    name = str(made._task_run_id)
    del made
    gc.collect()
    assert name not in GroupFuture._made
    GroupFuture.hear(name, dumped(Completed(data=1)))  # nobody wants to know


def test_outside_of_a_dask_task_there_is_no_thread_to_lend() -> None:
    lend_thread()
