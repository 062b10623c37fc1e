"""
The line to the drivers: they dial our Unix socket, and each says hello with its cluster's secret.

In: orders for a cluster. Out: a View of every cluster, which is a level: what its driver said last, and whether it is on
the line. Nothing is decided here about a run's end; `watch` does that.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from flowgroup import log
from flowgroup.daemon.view import Line, Sent, View
from flowgroup.errors import Refused, Transient
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
_RESEND_AFTER_S = 5.0

SecretOf = Callable[[ClusterName], str | None]


class Drivers:
    """`on_change` is called when a driver has reported or left."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._views: dict[ClusterName, View] = {}
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def serve(self, socket: Path, secret_of: SecretOf) -> AsyncIterator[None]:
        """
        Listen for drivers during the block. `secret_of` gives the secret of a cluster that exists.

        Raises Refused when the socket cannot be made.
        """
        async with asyncio.TaskGroup() as lines:

            def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                lines.create_task(self._serve(reader, writer, secret_of), name="driver line")

            server = await _listening(socket, begin)
            try:
                yield
            finally:
                server.close()
                for writer in self._writers:
                    writer.close()

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

    def send(self, cluster: ClusterName, order: Order) -> None:
        """Give an order. Raises Transient when the driver is not on the line."""
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret_of: SecretOf) -> None:
        self._writers.add(writer)
        cluster = None
        try:
            hello = await _hello(reader, secret_of)
            cluster = hello.cluster
            with self._joined(Line(writer, hello), hello) as view:
                while raw := await reader.readline():
                    self._take(view, raw)
        except (Refused, ValueError, OSError, TimeoutError) as exc:
            log.get().warning("driver_line_closed", cluster=cluster, reason=_brief(exc))
        finally:
            self._writers.discard(writer)
            writer.close()

    @contextmanager
    def _joined(self, line: Line, hello: Hello) -> Iterator[View]:
        view = self.view(hello.cluster)
        if view.line:
            view.line.close()
        view.line, view.status, view.heard_at = line, None, _now()
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
        self._take_attempts(view, {attempt.attempt: attempt for attempt in status.attempts})
        self._send_again(view)
        self._on_change()

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


async def _hello(reader: asyncio.StreamReader, secret_of: SecretOf) -> Hello:
    async with asyncio.timeout(_HELLO_TIMEOUT_S):
        hello = read_report(await reader.readline())
    if not isinstance(hello, Hello):
        raise Refused("the first line was not hello")
    secret = secret_of(hello.cluster)
    if secret is None or not hmac.compare_digest(secret.encode(), hello.secret.encode()):
        raise Refused(f"no cluster {hello.cluster!r} with that secret")
    return hello


async def _listening(
    socket: Path, begin: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
) -> asyncio.Server:
    try:
        server = await asyncio.start_unix_server(begin, str(socket), limit=MAX_LINE_BYTES)
        socket.chmod(0o600)  # noqa: ASYNC240 (at start, nobody waits)
    except OSError as exc:
        raise Refused(f"cannot listen on {socket}: {exc}. Set FLOWGROUP_HOME to a short path on a local disk.") from exc
    return server


def _now() -> float:
    return asyncio.get_running_loop().time()


def _brief(exc: Exception) -> str:
    """What went wrong, without what was sent: it may hold a secret."""
    return str(exc) if isinstance(exc, (Refused, OSError)) else f"{type(exc).__name__}: not a line that we know"
