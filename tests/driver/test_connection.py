"""A run's connection to its Dask scheduler: made before anybody needs it, and closed with the run."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Scheduler

from flowgroup.driver.own import Own
from flowgroup.driver.shipper import Shipper
from flowgroup.driver.tasks import Connection, current_client
from tests.servers import free_port

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]


@contextmanager
def connected(address: str, folder: Path) -> Iterator[None]:
    ours, theirs = socket.socketpair()
    with theirs:
        shipper = Shipper(ours.detach())
        with Connection(address, shipper, "http://127.0.0.1:1/api", "token", Own(frozenset({folder}))):
            yield
        shipper._socket.close()


async def test_it_is_there_without_a_task_and_gone_after_the_run(tmp_path: Path) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:

        def clients() -> list[str]:
            return [name for name in scheduler.clients if name.startswith("Client-")]

        def run_without_tasks() -> None:
            with connected(scheduler.address, tmp_path):
                deadline = time.monotonic() + 30
                while not clients():
                    assert time.monotonic() < deadline
                    time.sleep(0.02)

        await asyncio.to_thread(run_without_tasks)
        async with asyncio.timeout(30):
            while clients():
                await asyncio.sleep(0.02)


async def test_a_run_that_is_over_before_it_is_made_leaves_none(tmp_path: Path) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:

        def run_at_once() -> None:
            with connected(scheduler.address, tmp_path):
                pass

        await asyncio.to_thread(run_at_once)
        async with asyncio.timeout(30):
            while any(name.startswith("Client-") for name in scheduler.clients):
                await asyncio.sleep(0.02)


def test_a_run_whose_scheduler_is_gone_ends_all_the_same_and_has_no_client_afterwards(tmp_path: Path) -> None:
    began = time.monotonic()
    with connected(f"tcp://127.0.0.1:{free_port()}", tmp_path):
        pass
    assert time.monotonic() - began < 30  # what a connection may take until it is given up
    with pytest.raises(RuntimeError, match="no Dask workers"):
        current_client()
