"""Several processes in one event loop: each can be stopped (SIGSTOP), so that none of its tasks takes a step, and go on."""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any

_OURS: ContextVar["Process | None"] = ContextVar("process", default=None)


class Process:
    """
    The tasks that `start` and its tasks make. Time goes on while it is stopped: what comes for a task meanwhile (an answer, a
    timeout, a cancellation) is what the task sees first when it goes on. Needs `processes` as the loop's task factory.
    """

    def __init__(self) -> None:
        self.going = asyncio.Event()
        self.going.set()

    def start(self, main: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        context = copy_context()
        context.run(_OURS.set, self)
        return asyncio.get_running_loop().create_task(main, name=name, context=context)

    def stop(self) -> None:
        self.going.clear()

    def go_on(self) -> None:
        self.going.set()


def processes(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], context: Context | None = None
) -> "asyncio.Task[Any]":
    """A task factory."""
    process = (context or copy_context()).get(_OURS)
    return asyncio.Task(_steps(coroutine, process) if process else coroutine, loop=loop, context=context)


async def _steps(coroutine: Coroutine[Any, Any, Any], process: Process) -> Any:
    return await _Held(coroutine, process)


class _Held:
    def __init__(self, coroutine: Coroutine[Any, Any, Any], process: Process) -> None:
        self._coroutine = coroutine
        self._process = process

    def __await__(self) -> Generator[Any, Any, Any]:
        step, value = self._coroutine.send, None
        while True:
            while not self._process.going.is_set():
                try:
                    yield from self._process.going.wait().__await__()
                except BaseException as exc:
                    step, value = self._coroutine.throw, exc
            try:
                awaited = step(value)
            except StopIteration as end:
                return end.value
            try:
                step, value = self._coroutine.send, (yield awaited)
            except BaseException as exc:
                step, value = self._coroutine.throw, exc
