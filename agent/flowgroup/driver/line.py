"""
The driver's line to the daemon: it dials, says hello and how it stands, and hears orders.

A daemon that is away is waited for.
"""

import asyncio
import random
from collections.abc import Callable

from flowgroup import log
from flowgroup.edge.lines import dial, hang_up
from flowgroup.errors import Transient
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.orders import (
    MAX_LINE_BYTES,
    Cancel,
    Forget,
    Hello,
    Losses,
    Order,
    Shutdown,
    Status,
    Suspend,
    encode,
    read_order,
)

_log = log.get()
_AGAIN_S = 0.5
_SILENT_S = 10.0
_SILENT_STATUSES = 3


class Line:
    """`status` gives how the driver stands; `hear` takes each order; `changed` is set when the status did."""

    def __init__(
        self,
        hello: Hello,
        status: Callable[[], Status],
        hear: Callable[[Order | Cancel | Suspend | Forget | Losses | Shutdown], None],
        changed: asyncio.Event,
    ) -> None:
        self._hello = hello
        self._status = status
        self._hear = hear
        self._changed = changed

    async def keep(self, daemon: Endpoint, *, interval_s: float) -> None:
        """
        Connect, and connect again whenever the connection ends. On another host the daemon answers what we say; one that
        does not any more is stopped or gone, and another one may stand in for it. Never returns; raises Refused when the
        file with the authorities for TLS cannot be read.
        """
        away = None
        while True:
            try:
                reader, writer = await dial(daemon, limit_bytes=MAX_LINE_BYTES)
            except Transient as exc:
                if away != (away := str(exc)):  # said once, not twice a second
                    _log.warning("daemon_away", reason=away, then="trying again")
                await asyncio.sleep(_AGAIN_S * (0.5 + random.random()))  # noqa: S311
                continue
            away = None
            try:
                await self._talk(reader, writer, interval_s, is_far=daemon.socket is None)
            except (OSError, ValueError, EOFError) as exc:
                _log.warning("daemon_gone", reason=str(exc) or "it was silent for too long")
            finally:
                hang_up(writer)
            await asyncio.sleep(_AGAIN_S * random.random())  # noqa: S311

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, interval_s: float, *, is_far: bool
    ) -> None:
        silent_s = max(_SILENT_S, _SILENT_STATUSES * interval_s) if is_far else None
        writer.write(encode(self._hello))
        telling = asyncio.create_task(self._tell(writer, interval_s), name="tell")
        hearing = asyncio.create_task(self._listen(reader, silent_s), name="hear")
        try:
            done, _ = await asyncio.wait([telling, hearing], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (telling, hearing):
                task.cancel()
            await asyncio.gather(telling, hearing, return_exceptions=True)

    async def _tell(self, writer: asyncio.StreamWriter, interval_s: float) -> None:
        seals: dict[str, tuple[str, ...]] = {}
        while True:
            self._changed.clear()
            writer.write(encode(self._status().model_copy(update=seals)))
            seals = {"seals": ()}  # what came later on this line is of the daemon that it leads to
            await writer.drain()
            try:
                async with asyncio.timeout(interval_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _listen(self, reader: asyncio.StreamReader, silent_s: float | None) -> None:
        """A daemon that has never answered a status is of a version that does not, and may be silent."""
        answers = False
        while True:
            async with asyncio.timeout(silent_s if answers else None):
                line = await reader.readline()
            if not line:
                raise EOFError("the daemon closed the connection")
            order = read_order(line)
            answers = answers or (isinstance(order, Forget) and not order.attempts)
            self._hear(order)
