"""A real Dask scheduler with the preload, and workers of this process; only who starts and ends them is missing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from distributed import Client, Scheduler, Worker

from flowgroup.driver import scaling
from flowgroup.driver.levels import Levels, follow
from flowgroup.driver.scaling import Scaling
from flowgroup.driver.wanted import Group

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]
CPU = Group("default", "cpu-", least=0, most=4)
GPU = Group("gpu", "gpu-", least=0, most=2, resources={"GPU": 1})


class Lab:
    """`level` is what the driver hears."""

    def __init__(self, scheduler: Scheduler, client: Client, stack: AsyncExitStack) -> None:
        self.scheduler = scheduler
        self.client = client
        self._stack = stack
        self.level: Levels = {}

    async def worker(self, name: str, **resources: float) -> Worker:
        made = Worker(self.scheduler.address, name=name, nthreads=1, resources=resources or None, dashboard=False)
        return await self._stack.enter_async_context(made)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not what():
                await asyncio.sleep(0.05)

    def wanted(self) -> dict[str, int]:
        return {name: level.wanted for name, level in self.level.items()}

    def retired(self) -> list[str]:
        return sorted(name for level in self.level.values() for name in level.retired)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_LOOK_S", 0.1)


@asynccontextmanager
async def _lab(*groups: Group) -> AsyncIterator[Lab]:
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(Scheduler(host="127.0.0.1", port=0, dashboard_address=":0"))
        client = await stack.enter_async_context(Client(scheduler.address, asynchronous=True, set_as_default=False))
        lab = Lab(scheduler, client, stack)
        scaled = Scaling(scheduler, list(groups), target_s=1.0, idle_s=0.5)
        server = await asyncio.start_server(scaled.serve, "127.0.0.1", 0)
        at = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        tasks = [asyncio.create_task(scaled.run()), asyncio.create_task(follow(at, lambda told: _take(lab, told)))]
        yield lab
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        await lab.until(lambda: not any("Scaling.serve" in repr(task.get_coro()) for task in asyncio.all_tasks()))


def _take(lab: Lab, level: Levels) -> None:
    lab.level = level


def napping(_: int, seconds: float) -> Any:
    time.sleep(seconds)
    return _


async def test_a_worker_that_comes_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_LOOK_S", 3600.0)
    async with _lab(CPU) as lab:
        await lab.until(lambda: bool(lab.level))
        await lab.worker("cpu-1")
        await lab.until(lambda: lab.level["default"].there == 1)


async def test_without_workers_one_is_wanted_for_a_task_of_each_kind_and_none_when_there_is_none() -> None:
    async with _lab(CPU, GPU) as lab:
        await lab.until(lambda: lab.wanted() == {"default": 0, "gpu": 0})
        plain = lab.client.submit(napping, 1, 0.0)
        await lab.until(lambda: lab.wanted() == {"default": 1, "gpu": 0})
        asks = lab.client.submit(napping, 2, 0.0, resources={"GPU": 1})
        await lab.until(lambda: lab.wanted() == {"default": 1, "gpu": 1})
        await lab.worker("gpu-0", GPU=1)
        assert [await plain, await asks] == [1, 2]
        await lab.until(lambda: lab.wanted() == {"default": 0, "gpu": 0})


async def test_long_tasks_want_a_worker_each_and_their_workers_are_never_retired() -> None:
    async with _lab(CPU) as lab:
        for number in range(2):
            await lab.worker(f"cpu-{number}")
        futures = lab.client.map(napping, range(3), seconds=2.0, pure=False)
        await lab.until(lambda: lab.wanted() == {"default": 3})
        await lab.until(lambda: len(lab.retired()) == 1)  # the third task has begun, and the other worker is idle
        assert any(ws.processing for ws in lab.scheduler.workers.values())
        assert not any(ws.processing for ws in lab.scheduler.workers.values() if ws.name in lab.retired())
        assert await lab.client.gather(futures) == [0, 1, 2]


async def test_idle_workers_are_retired_without_their_results_getting_lost_and_gpu_workers_are_left_alone() -> None:
    fixed = Group("gpu", "gpu-", least=1, most=1, resources={"GPU": 1})
    async with _lab(CPU, fixed) as lab:
        workers = {name: await lab.worker(name) for name in ("cpu-0", "cpu-1", "cpu-2")}
        workers["gpu-0"] = await lab.worker("gpu-0", GPU=1)
        futures = lab.client.map(napping, range(40), seconds=0.02, pure=False)
        held = await lab.client.gather(lab.client.map(lambda n: n * n, futures))
        on_gpu = lab.client.submit(napping, "gpu", 0.0, resources={"GPU": 1})  # type: ignore[arg-type]
        await on_gpu
        await lab.until(lambda: len(lab.retired()) == 2)
        assert all(name.startswith("cpu-") for name in lab.retired())
        assert lab.level["default"].there == 1
        for name in lab.retired():
            await workers[name].close()
        await lab.until(lambda: lab.retired() == [] and lab.level["default"].there == 1)
        assert await lab.client.gather(futures) == list(range(40))
        assert held == [number**2 for number in range(40)]
        assert await on_gpu == "gpu"
        for future in futures:
            assert future.status == "finished"


async def test_the_last_workers_go_when_nobody_holds_a_result_any_more() -> None:
    async with _lab(CPU) as lab:
        for number in range(2):
            await lab.worker(f"cpu-{number}")
        future = lab.client.submit(napping, 1, 0.0)
        await future
        await lab.until(lambda: len(lab.retired()) == 1)
        del future
        await lab.until(lambda: len(lab.retired()) == 2)


async def test_a_retired_worker_takes_no_task() -> None:
    async with _lab(CPU) as lab:
        await lab.worker("cpu-0")
        await lab.until(lambda: lab.retired() == ["cpu-0"])
        future = lab.client.submit(napping, 1, 0.0)
        await lab.until(lambda: lab.wanted() == {"default": 1} and lab.level["default"].there == 0)
        await lab.worker("cpu-1")
        assert await future == 1
