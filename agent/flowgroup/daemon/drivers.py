"""
The line to the drivers: they dial our Unix socket or TLS port, and each says hello with its cluster's secret.

In: orders for a cluster. Out: a View of every cluster, which is a level: what its driver said last, and whether it is on
the line. Nothing is decided here about a run's end; `watch` does that.
"""

import asyncio
import hmac
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from flowgroup import log
from flowgroup.daemon.view import Line, Sent, View
from flowgroup.edge import tls
from flowgroup.edge.fence import Fence
from flowgroup.edge.lines import Lines, Strangers, accept, bound, hang_up, opened
from flowgroup.errors import Refused, Transient
from flowgroup.model.endpoint import Listen
from flowgroup.model.ids import AttemptId, ClusterName
from flowgroup.model.orders import (
    MAX_LINE_BYTES,
    Attempt,
    Cancel,
    Forget,
    Hello,
    Order,
    Shutdown,
    Status,
    Suspend,
    read_report,
)

_HELLO_TIMEOUT_S = 10.0
_MAX_HELLO_BYTES = 16 * 1024
_RESEND_AFTER_S = 5.0
_SILENT_S = 30.0  # a driver on another host says how it stands every 2 s
_SAID_EVERY_S = 1.0
_BEAT_EVERY_S = 1.5

SecretOf = Callable[[ClusterName], str | None]


class Drivers:
    """
    `on_change` is called when a driver has reported or left. A line over TLS that has been silent for `silent_s` is
    closed: if its driver is there it dials again. Once `fence` is closed drivers are sent away, to whoever leads now.
    """

    def __init__(
        self,
        on_change: Callable[[], None] = lambda: None,
        *,
        silent_s: float = _SILENT_S,
        fence: Fence | None = None,
    ) -> None:
        self._on_change = on_change
        self._silent_s = silent_s
        self._fence = fence or Fence()
        self._views: dict[ClusterName, View] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._strangers = Strangers()
        self._said_at = float("-inf")

    @asynccontextmanager
    async def serve(self, listen: Listen, secret_of: SecretOf) -> AsyncIterator[int]:
        """
        Listen for drivers during the block. `secret_of` gives the secret of a cluster that exists.

        Yields the port, 0 for a Unix socket. Raises Refused when there is no listening there, or with that certificate.
        """
        async with asyncio.TaskGroup() as lines:
            secured = None if isinstance(listen, Path) else tls.showing(listen.cert, listen.key)
            with bound(listen) as listener:

                def begin(accepted: socket.socket) -> None:
                    lines.create_task(self._serve(accepted, secured, secret_of), name="driver line")

                accepting = lines.create_task(accept(listener, begin), name="accept drivers")
                try:
                    yield 0 if secured is None else listener.getsockname()[1]
                finally:
                    accepting.cancel()
                    self._strangers.cut_off()
                    for writer in self._writers:
                        hang_up(writer)

    def view(self, cluster: ClusterName) -> View:
        return self._views.setdefault(cluster, View(cluster))

    def has_reported(self, cluster: ClusterName) -> bool:
        """Whether the cluster's driver is on the line and has said what it has."""
        view = self.view(cluster)
        return view.is_connected and view.status is not None

    def carried(self) -> list[tuple[ClusterName, Attempt]]:
        """Every attempt that a driver on the line has."""
        views = [view for view in self._views.values() if view.is_connected]
        return [(view.cluster, attempt) for view in views for attempt in view.attempts.values()]

    def sealed(self) -> list[tuple[ClusterName, str]]:
        """What drivers showed of the attempts that they had when they dialled."""
        return [(view.cluster, seal) for view in self._views.values() for seal in view.seals]

    def send(self, cluster: ClusterName, order: Order) -> None:
        """Give an order. Raises Transient when the driver is not on the line, or we do not lead any more."""
        self._fence.check()
        view = self.view(cluster)
        if view.line is None:
            raise Transient(f"the driver of cluster {cluster} is not connected")
        view.orders[order.attempt] = Sent(order, view.line.pid, _now())
        view.line.write(order)

    def cancel(self, cluster: ClusterName, attempt: AttemptId, grace_s: float) -> None:
        """Ask for an attempt's end; said again whenever the driver comes back."""
        view = self.view(cluster)
        view.cancels[attempt] = Cancel(attempt=attempt, grace_s=grace_s)
        if view.line:
            view.line.write(view.cancels[attempt])

    def suspend(self, cluster: ClusterName, attempt: AttemptId) -> None:
        """Say that the attempt's run is Suspended; said again whenever the driver comes back."""
        view = self.view(cluster)
        view.suspends[attempt] = Suspend(attempt=attempt)
        if view.line:
            view.line.write(view.suspends[attempt])

    def was_given(self, cluster: ClusterName, attempt: AttemptId) -> bool:
        """Whether a driver has, or may have, this attempt."""
        view = self.view(cluster)
        return attempt in view.orders or attempt in view.seen

    def forget(self, cluster: ClusterName, attempt: AttemptId) -> None:
        """The API knows how the attempt ended. One that still lives is ended first, and forgotten when it has."""
        view = self.view(cluster)
        known = view.attempts.get(attempt)
        if attempt in view.orders or (known and known.phase != "ended"):
            self.cancel(cluster, attempt, 0.0)
            return
        view.cancels.pop(attempt, None)
        view.suspends.pop(attempt, None)
        view.attempts.pop(attempt, None)  # else the reconcile would resume it before the next status
        view.seen.discard(attempt)
        view.forgotten.add(attempt)
        if view.line:
            view.line.write(Forget(attempts=(attempt,)))

    def shut_down(self, cluster: ClusterName) -> None:
        """Tell the driver that nothing is left to do, and forget the cluster."""
        view = self._views.pop(cluster, None)
        if view is None:
            return
        view.orders.clear()
        if view.line:
            view.line.write(Shutdown())
            view.line.close()
        view.line, view.status, view.attempts = None, None, {}
        view.notify()

    # One line

    async def _serve(self, accepted: socket.socket, secured: ssl.SSLContext | None, secret_of: SecretOf) -> None:
        cluster = None
        if not self._fence.is_open:
            accepted.close()
            return
        try:
            with self._strangers.one() as known:
                async with opened(accepted, secured) as (lines, writer):
                    hello = await _hello(lines, secret_of)
                    cluster = hello.cluster
                    known()
                    await self._hear(lines, writer, hello, self._silent_s if secured else None)
        except (Refused, ValueError, OSError, TimeoutError) as exc:
            self._say_closed(cluster, _brief(exc))

    async def _hear(self, lines: Lines, writer: asyncio.StreamWriter, hello: Hello, silent_s: float | None) -> None:
        self._writers.add(writer)
        try:
            with self._joined(Line(writer, hello, self._fence), hello) as view:
                while True:
                    async with asyncio.timeout(silent_s):
                        raw = await lines.next(limit_bytes=MAX_LINE_BYTES)
                    if not raw or not self._fence.is_open:
                        return
                    self._take(view, raw)
        finally:
            self._writers.discard(writer)

    def _say_closed(self, cluster: ClusterName | None, reason: str) -> None:
        """Of strangers only now and then: they may be many."""
        if cluster is None and _now() - self._said_at < _SAID_EVERY_S:
            return
        self._said_at = _now() if cluster is None else self._said_at
        log.get().warning("driver_line_closed", cluster=cluster, reason=reason)

    @contextmanager
    def _joined(self, line: Line, hello: Hello) -> Iterator[View]:
        view = self.view(hello.cluster)
        if view.line:
            view.line.close()
        view.line, view.status, view.seals, view.heard_at = line, None, (), _now()
        view.attempts = {name: known for name, known in view.attempts.items() if known.phase == "ended"}
        log.get().info("driver_connected", cluster=hello.cluster, pid=hello.pid, python=hello.python)
        # An order that another process had been given may have begun there: it is never given to this one.
        view.orders = {name: sent for name, sent in view.orders.items() if sent.pid == hello.pid}
        for sent in view.orders.values():
            line.write(sent.order)
        for suspend in view.suspends.values():
            line.write(suspend)
        for cancel in view.cancels.values():
            line.write(cancel)
        view.notify()
        try:
            yield view
        finally:
            if view.line is line:
                view.line = None
                log.get().info("driver_disconnected", cluster=hello.cluster, pid=hello.pid)
                view.notify()
                self._on_change()

    def _take(self, view: View, raw: bytes) -> None:
        status = read_report(raw)
        if not isinstance(status, Status):
            raise Refused("hello came twice")
        view.status, view.heard_at = status, _now()
        view.seals = status.seals or view.seals
        self._take_attempts(view, {attempt.attempt: attempt for attempt in status.attempts})
        self._send_again(view)
        self._beat(view)
        self._on_change()

    def _beat(self, view: View) -> None:
        """A driver whose daemon is stopped, or has gone without a word, notices that by this: nothing to forget."""
        if view.line and _now() - view.line.wrote_at > _BEAT_EVERY_S:
            view.line.write(Forget(attempts=()))

    def _take_attempts(self, view: View, now: dict[AttemptId, Attempt]) -> None:
        view.forgotten &= now.keys()
        if view.forgotten and view.line:
            view.line.write(Forget(attempts=tuple(view.forgotten)))
        before, after = view.attempts, {name: now[name] for name in now.keys() - view.forgotten}
        view.attempts = after
        view.seen |= after.keys()
        view.orders = {name: sent for name, sent in view.orders.items() if name not in after}
        view.notify({name for name in before.keys() | after.keys() if before.get(name) != after.get(name)})

    def _send_again(self, view: View) -> None:
        for sent in view.orders.values():
            if view.line and _now() - sent.at > _RESEND_AFTER_S:
                sent.at = _now()
                view.line.write(sent.order)


async def _hello(lines: Lines, secret_of: SecretOf) -> Hello:
    async with asyncio.timeout(_HELLO_TIMEOUT_S):
        hello = read_report(await lines.next(limit_bytes=_MAX_HELLO_BYTES))
    if not isinstance(hello, Hello):
        raise Refused("the first line was not hello")
    secret = secret_of(hello.cluster)
    if secret is None or not hmac.compare_digest(secret.encode(), hello.secret.encode()):
        raise Refused(f"no cluster {hello.cluster!r} with that secret")
    return hello


def _now() -> float:
    return asyncio.get_running_loop().time()


def _brief(exc: Exception) -> str:
    """What went wrong, without what was sent: it may hold a secret."""
    if isinstance(exc, (Refused, OSError)):
        return str(exc) or "it was silent for too long"  # a timeout of ours says nothing, one of the kernel's does
    return f"{type(exc).__name__}: not a line that we know"
