"""One cluster's driver as the daemon sees it: what it said last, and whether it is on the line."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flowgroup.edge.fence import Fence
from flowgroup.edge.lines import hang_up
from flowgroup.model.ids import AttemptId, ClusterName
from flowgroup.model.orders import MAX_LINE_BYTES, Attempt, Cancel, Hello, Order, Status, Suspend, ToDriver, encode

_MAX_UNSENT_BYTES = 4 * MAX_LINE_BYTES


@dataclass(slots=True)
class Sent:
    order: Order
    pid: int
    at: float


@dataclass(slots=True)
class View:
    """
    One cluster's driver as it was seen last.

    `orders`: sent, and not in a status yet. `seen`: attempts that were in a status. An attempt that was seen and is in
    no status any more is lost; one that was never seen never began. `forgotten`: the driver was told to forget them, and
    may have said its next status before it heard that.
    """

    cluster: ClusterName
    line: "Line | None" = None
    status: Status | None = None
    heard_at: float = 0.0
    orders: dict[AttemptId, Sent] = field(default_factory=dict)
    seen: set[AttemptId] = field(default_factory=set)
    cancels: dict[AttemptId, Cancel] = field(default_factory=dict)
    suspends: dict[AttemptId, Suspend] = field(default_factory=dict)
    forgotten: set[AttemptId] = field(default_factory=set)
    attempts: dict[AttemptId, Attempt] = field(default_factory=dict)
    seals: tuple[str, ...] = ()
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _bells: dict[AttemptId, asyncio.Event] = field(default_factory=dict)

    @property
    def is_connected(self) -> bool:
        return self.line is not None

    @contextmanager
    def bell(self, attempt: AttemptId) -> Iterator[asyncio.Event]:
        """Set when something about this attempt, or the line itself, has changed."""
        bell = self._bells[attempt] = asyncio.Event()
        try:
            yield bell
        finally:
            del self._bells[attempt]

    def notify(self, only: set[AttemptId] | None = None) -> None:
        """Wake those who wait for a change: of these attempts, or of the line itself."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        for name in self._bells.keys() if only is None else only & self._bells.keys():
            self._bells[name].set()


class Line:
    """A connection to a driver that has said who it is. Nothing is written to it once the fence is closed."""

    def __init__(self, writer: asyncio.StreamWriter, hello: Hello, fence: Fence) -> None:
        self._writer = writer
        self._fence = fence
        self.pid = hello.pid
        self.wrote_at = 0.0

    def write(self, frame: ToDriver) -> None:
        if not self._fence.is_open:
            self._writer.transport.abort()
            return
        self.wrote_at = asyncio.get_running_loop().time()
        self._writer.write(encode(frame))
        if self._writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            self._writer.transport.abort()  # it does not read; when it comes back it is told everything again

    def close(self) -> None:
        hang_up(self._writer)
