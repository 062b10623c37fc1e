"""The line from drivers to the daemon over real TLS, and what those cost who are no drivers."""

import asyncio
import contextlib
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flowgroup.daemon.drivers import Drivers
from flowgroup.driver.line import Line
from flowgroup.edge import lines
from flowgroup.errors import Refused, Transient
from flowgroup.model.endpoint import Endpoint, TlsPort
from flowgroup.model.ids import AttemptId, ClusterName
from flowgroup.model.orders import Attempt, Cancel, Forget, Hello, Status, encode
from tests.fakes.ca import FakeCA
from tests.servers import free_port

NAME = ClusterName("etl-0123456789ab")
HELLO = Hello(cluster=NAME, secret="the secret", python="3.11", prefect="3.8.8", pid=7)
LARGE = Status(ready=True, attempts=(Attempt(run_id="r", attempt="a" * 3_000_000, phase="running"),))  # type: ignore[arg-type]


@pytest.fixture
def ca(tmp_path: Path) -> FakeCA:
    made = FakeCA(tmp_path / "ca")
    made.issue()
    return made


async def until(is_so: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def daemon(listen: TlsPort, **told: Any) -> AsyncIterator[tuple[Drivers, int]]:
    drivers = Drivers(**told)
    async with drivers.serve(listen, lambda name: "the secret" if name == NAME else None) as port:
        yield drivers, port


async def test_a_driver_on_the_line_costs_little_memory(ca: FakeCA) -> None:
    """Both ends of it are in this process."""
    number, trusted = 20, ssl.create_default_context(cafile=str(ca.file))
    async with daemon(ca.port()) as (_, port), contextlib.AsyncExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(number):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
            stack.callback(writer.close)
        each = (tracemalloc.get_traced_memory()[0] - before) / number
    assert each < 2 * 64 * 1024


@dataclass
class Driver:
    """A driver's own line. `status` is how it stands."""

    status: Status = field(default_factory=lambda: Status(ready=True))
    heard: list[Any] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def dials(self, to: Endpoint, *, interval_s: float = 0.2) -> AsyncIterator["Driver"]:
        line = Line(HELLO, lambda: self.status, self._hear, self.changed)
        keeping = asyncio.create_task(line.keep(to, interval_s=interval_s), name="line")
        try:
            yield self
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    def _hear(self, frame: Any) -> None:
        if frame != Forget(attempts=()):  # what a status is answered with
            self.heard.append(frame)


def at(port: int, ca: FakeCA, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint.parse(f"tls://{host}:{port}", ca=ca.file)


async def test_a_driver_reports_and_hears_over_tls(ca: FakeCA) -> None:
    async with daemon(ca.port()) as (drivers, port), Driver().dials(at(port, ca)) as driver:
        await until(lambda: drivers.has_reported(NAME))
        drivers.cancel(NAME, AttemptId("a"), 1.0)
        await until(lambda: driver.heard == [Cancel(attempt=AttemptId("a"), grace_s=1.0)])


async def test_a_line_may_be_long(ca: FakeCA) -> None:
    async with daemon(ca.port()) as (drivers, port), Driver(LARGE).dials(at(port, ca)):
        await until(lambda: bool(drivers.carried()))
        assert drivers.carried() == [(NAME, LARGE.attempts[0])]


async def test_a_restarted_daemon_is_found_again(ca: FakeCA) -> None:
    port = free_port()
    async with Driver().dials(at(port, ca)):
        for _ in range(2):
            async with daemon(ca.port(port)) as (drivers, _):
                await until(lambda: drivers.has_reported(NAME))


async def test_only_tls_of_today_is_spoken(ca: FakeCA) -> None:
    old = ssl.create_default_context(cafile=ca.file)
    with pytest.warns(DeprecationWarning):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with daemon(ca.port()) as (_, port):
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)


async def test_another_authority_is_refused_with_the_remedy(ca: FakeCA, tmp_path: Path) -> None:
    other = FakeCA(tmp_path / "other")
    async with daemon(ca.port()) as (_, port):
        with pytest.raises(Transient, match=r"signed by none of the authorities in .*ca\.crt: --ca .* must name"):
            await lines.dial(at(port, other), limit_bytes=1000)
        with pytest.raises(Transient, match="none of the authorities that this system trusts"):
            await lines.dial(Endpoint.parse(f"tls://127.0.0.1:{port}"), limit_bytes=1000)


async def test_another_host_is_refused_with_the_remedy(ca: FakeCA) -> None:
    ca.issue("daemon.flowgroup.svc")
    async with daemon(ca.port()) as (_, port):
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(Transient, match=rf"must name '{host}' \(subjectAltName\)"):
                await lines.dial(at(port, ca, host), limit_bytes=1000)


async def test_an_expired_certificate_is_refused_with_the_remedy(ca: FakeCA) -> None:
    ca.issue(days=-1)
    async with daemon(ca.port()) as (_, port):
        with pytest.raises(Transient, match=r"expired.*Renew"):
            await lines.dial(at(port, ca), limit_bytes=1000)


async def test_what_speaks_no_tls_is_said(ca: FakeCA) -> None:
    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(rude, "127.0.0.1", 0) as server:
        with pytest.raises(Transient, match="does it speak TLS"):
            await lines.dial(at(server.sockets[0].getsockname()[1], ca), limit_bytes=1000)


async def test_nobody_there_is_transient(ca: FakeCA) -> None:
    with pytest.raises(Transient, match="cannot be reached"):
        await lines.dial(at(free_port(), ca), limit_bytes=1000)


async def test_authorities_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for file in ("nothing", "empty"):
        with pytest.raises(Refused, match="--ca"):
            await lines.dial(Endpoint.parse("tls://127.0.0.1:1", ca=tmp_path / file), limit_bytes=1000)


@pytest.mark.parametrize("damage", ["no key", "no certificate", "the key of another"])
async def test_a_certificate_that_cannot_be_used_is_refused(ca: FakeCA, tmp_path: Path, damage: str) -> None:
    other = FakeCA(tmp_path / "other")
    other.issue()
    listen = ca.port()
    if damage == "no key":
        listen.key.unlink()
    elif damage == "no certificate":
        listen.cert.write_text("nonsense")
    else:
        listen = TlsPort("127.0.0.1", 0, listen.cert, other.port().key)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with daemon(listen):
            pass
    assert caught.group_contains(Refused, match="cannot be used")


async def test_a_port_that_is_taken_is_refused(ca: FakeCA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with daemon(ca.port(taken.getsockname()[1])):
                pass
        assert caught.group_contains(Refused, match="cannot listen on 127.0.0.1")


async def test_new_certificates_are_taken_without_a_restart(ca: FakeCA, tmp_path: Path) -> None:
    async with daemon(ca.port()) as (drivers, port), Driver().dials(at(port, ca)):
        await until(lambda: drivers.has_reported(NAME))
        first = await _serial(port, ca)
        ca.issue()
        assert await _serial(port, ca) != first
        good = await _serial(port, ca)
        (ca.folder / "tls.key").write_text("half of a key")
        assert await _serial(port, ca) == good  # and not none
        successor = FakeCA(tmp_path / "next")
        successor.issue()
        for name in ("tls.key", "tls.crt", "ca.crt"):
            (successor.folder / name).replace(ca.folder / name)
        assert await _serial(port, ca) != good  # what was dialled with the old authority's file trusts the new one
        assert drivers.has_reported(NAME)


async def _serial(port: int, ca: FakeCA) -> str:
    _, writer = await lines.dial(at(port, ca), limit_bytes=1000)
    try:
        return str(writer.get_extra_info("peercert")["serialNumber"])
    finally:
        lines.hang_up(writer)


@asynccontextmanager
async def many(count: int, port: int, say: bytes = b"") -> AsyncIterator[list[socket.socket]]:
    """So many plain connections, each of which says this and then nothing."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
            with contextlib.suppress(OSError):
                one.send(say)
            made.append(one)
        yield made


# The first bytes of a handshake that says that more is to come.
_HALF_A_HANDSHAKE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize("say", [b"", _HALF_A_HANDSHAKE, b"GET / HTTP/1.1\r\n\r\n"], ids=["silent", "half", "http"])
async def test_a_thousand_connections_that_do_not_shake_hands_keep_no_driver_out(ca: FakeCA, say: bytes) -> None:
    async with daemon(ca.port()) as (drivers, port), many(1000, port, say):
        assert len(drivers._strangers) <= 128
        async with Driver().dials(at(port, ca)):
            await until(lambda: drivers.has_reported(NAME), timeout_s=3)


async def test_a_thousand_that_say_nothing_after_the_handshake_keep_no_driver_out(ca: FakeCA) -> None:
    async with daemon(ca.port()) as (drivers, port):
        writers = []
        try:
            for _ in range(300):
                with contextlib.suppress(Transient):
                    writers.append((await lines.dial(at(port, ca), limit_bytes=1000))[1])
                    writers[-1].write(b"{" * 100)
            assert len(drivers._strangers) <= 128
            async with Driver().dials(at(port, ca)):
                await until(lambda: drivers.has_reported(NAME), timeout_s=3)
        finally:
            for writer in writers:
                writer.transport.abort()


async def test_who_has_said_hello_is_no_stranger_and_is_never_cut_off(ca: FakeCA) -> None:
    async with daemon(ca.port()) as (drivers, port), Driver().dials(at(port, ca)):
        await until(lambda: drivers.has_reported(NAME))
        line = drivers.view(NAME).line
        async with many(200, port):
            await until(lambda: len(drivers._strangers) == 128)
            assert drivers.view(NAME).line is line


async def test_a_hello_that_does_not_end_is_cut_off_early(ca: FakeCA) -> None:
    async with daemon(ca.port()) as (_, port):
        reader, writer = await lines.dial(at(port, ca), limit_bytes=1000)
        writer.write(b"[" * 1_000_000)
        with contextlib.suppress(OSError):
            async with asyncio.timeout(5):
                assert await reader.read() == b""
        writer.transport.abort()


async def test_a_driver_that_has_gone_silent_is_off_the_line_and_may_come_back(ca: FakeCA) -> None:
    async with daemon(ca.port(), silent_s=0.3) as (drivers, port):
        _, writer = await lines.dial(at(port, ca), limit_bytes=1000)
        writer.write(encode(HELLO) + encode(Status(ready=True)))
        await until(lambda: drivers.has_reported(NAME))
        await until(lambda: not drivers.view(NAME).is_connected)
        async with Driver().dials(at(port, ca), interval_s=0.1):
            await until(lambda: drivers.has_reported(NAME))
        writer.transport.abort()


async def test_the_kernel_notices_a_host_that_has_gone(ca: FakeCA) -> None:
    async with daemon(ca.port()) as (drivers, port), Driver().dials(at(port, ca)):
        await until(lambda: drivers.has_reported(NAME))
        for writer in (*drivers._writers, (await lines.dial(at(port, ca), limit_bytes=1))[1]):
            connection = writer.get_extra_info("socket")
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
