"""The relay behind real TLS: the desk's gate, outbox and websockets, and the daemon's control, over an Endpoint."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from flowgroup.driver import gate
from flowgroup.driver.outbox import Mailbag, Outbox
from flowgroup.edge import forward, tls
from flowgroup.edge.files import control_key
from flowgroup.edge.relay_control import OpenAttempt, RelayControl
from flowgroup.errors import Permanent, Refused, Transient
from flowgroup.health import Health
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.ids import AttemptId, ClusterName, RunId
from flowgroup.relay import main, serving
from flowgroup.relay.upstream import Secrets
from flowgroup.settings import RelaySettings
from tests.fakes.ca import FakeCA
from tests.fakes.upstream import Failure, FakeAPI, fake_api
from tests.relay.serving import CONTROL_KEY, TOKEN, an_id, app_in, sha256
from tests.servers import free_port, wait_until


@pytest.fixture
def ca(tmp_path: Path) -> FakeCA:
    made = FakeCA(tmp_path / "ca")
    made.issue()
    return made


@dataclass
class Relay:
    api: FakeAPI
    at: Endpoint
    server: serving.GuardedServer
    health: Health

    def control(self, key: str = CONTROL_KEY) -> RelayControl:
        async def where() -> Endpoint:
            return self.at

        return RelayControl(where, key, ttl_s=60.0)


@asynccontextmanager
async def relay(ca: FakeCA, port: int = 0) -> AsyncIterator[Relay]:
    health = Health(is_ready=True)
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(fake_api())
        known = Secrets(api_url=api.url, control_key=CONTROL_KEY, api_key="the-real-token")  # type: ignore[arg-type]
        app = await stack.enter_async_context(app_in(ca.file.parent / f"spool-{an_id()}", known, health=health))
        with main.listening(("127.0.0.1", port)) as listener:
            secured = tls.showing(ca.port().cert, ca.port().key)
            server = serving.GuardedServer(serving.server_config(app), listener, secured)
            running = asyncio.create_task(server.serve(), name="relay")
            try:
                await until(lambda: server.started)
                at = Endpoint.parse(f"https://127.0.0.1:{listener.getsockname()[1]}", ca=ca.file)
                yield Relay(api, at, server, health)
            finally:
                server.should_exit = True
                await running


def an_attempt() -> OpenAttempt:
    return OpenAttempt(AttemptId(an_id()), RunId(an_id()), sha256(TOKEN), None, ClusterName("c"))


async def until(is_so: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_the_daemon_opens_and_closes_attempts_over_tls(ca: FakeCA) -> None:
    async with relay(ca) as on, contextlib.aclosing(on.control()) as control, forward.client(at=on.at) as child:
        attempt = an_attempt()
        await control.level([attempt])
        shown = {"Authorization": f"Bearer {TOKEN}"}
        assert (await child.get(f"{on.at.url}/api/health", headers=shown)).status_code == 200
        await control.close(attempt.attempt)
        assert (await child.get(f"{on.at.url}/api/health", headers=shown)).status_code == 401


@pytest.mark.parametrize("key", ["wrong", CONTROL_KEY[:-1], f"{CONTROL_KEY}x", TOKEN])
async def test_only_the_control_key_opens(ca: FakeCA, key: str) -> None:
    async with relay(ca) as on, contextlib.aclosing(on.control(key)) as control:
        with pytest.raises(Permanent, match="needs the control key"):
            await control.level([])


async def test_another_authority_is_refused_with_the_remedy(ca: FakeCA, tmp_path: Path) -> None:
    other = Path(FakeCA(tmp_path / "other").file)
    async with relay(ca) as on:
        on.at = Endpoint.parse(str(on.at), ca=other)
        async with contextlib.aclosing(on.control()) as control:
            with pytest.raises(
                Transient, match=r"none of the authorities in .*--ca .* must name the one that signed it"
            ):
                await control.level([])
        async with gate.serving(on.at, hold_s=2.0) as api_url, httpx.AsyncClient() as child:
            answer = await child.get(f"{api_url}/health", headers={"Authorization": f"Bearer {TOKEN}"})
            assert answer.status_code == 503
            assert answer.headers["prefect-maintenance"] == "true"
            assert "none of the authorities" in answer.json()["detail"]


async def test_another_host_is_refused_with_the_remedy(ca: FakeCA) -> None:
    ca.issue("relay.flowgroup.svc")
    async with relay(ca) as on, contextlib.aclosing(on.control()) as control:
        with pytest.raises(Transient, match=r"must name '127\.0\.0\.1'"):
            await control.level([])


async def test_calls_records_and_websockets_of_a_desk_pass(ca: FakeCA) -> None:
    async with (
        relay(ca) as on,
        contextlib.aclosing(on.control()) as control,
        gate.serving(on.at, hold_s=2.0) as api_url,
        httpx.AsyncClient() as child,
        forward.client(at=on.at) as client,
    ):
        attempt = an_attempt()
        await control.level([attempt])
        shown = {"Authorization": f"Bearer {TOKEN}"}
        assert (await child.get(f"{api_url}/health", headers=shown)).status_code == 200
        await _records_arrive(on, Outbox(client, on.at), attempt)
        url = api_url.replace("http", "ws", 1) + "/events/in"
        async with connect(url, subprotocols=[Subprotocol("prefect")], proxy=None) as socket_:
            await socket_.send(json.dumps({"type": "auth", "token": TOKEN}))
            assert json.loads(await socket_.recv())["type"] == "auth_success"


async def _records_arrive(on: Relay, outbox: Outbox, attempt: OpenAttempt) -> None:
    sending = asyncio.create_task(outbox.run(), name="outbox")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    bag = Mailbag(TOKEN)
    reading = asyncio.create_task(outbox.collect(theirs, bag), name="collect")
    entry = {"level": 20, "message": "over tls", "name": "x", "timestamp": "2026-01-01T00:00:00Z"}
    ours.send(json.dumps({"log": {**entry, "flow_run_id": attempt.run_id}}).encode() + b"\n")
    ours.close()
    await reading
    assert await outbox.emptied(bag, 5.0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await until(lambda: any(b"over tls" in call.body for call in on.api.seen))


async def test_probes_need_no_key_and_no_api(ca: FakeCA) -> None:
    async with relay(ca) as on, forward.client(at=on.at) as probe:
        on.api.failure = Failure()
        for path in ("/livez", "/readyz"):
            assert (await probe.get(on.at.url + path)).status_code == 200
        on.health.is_ready = False
        assert (await probe.get(f"{on.at.url}/readyz")).status_code == 503
        assert (await probe.get(f"{on.at.url}/livez")).status_code == 200
        assert (await probe.get(f"{on.at.url}/metrics")).status_code == 404


async def test_a_restarted_relay_is_found_again(ca: FakeCA) -> None:
    port = free_port()
    for _ in range(2):
        async with relay(ca, port) as on, contextlib.aclosing(on.control()) as control:
            await control.level([])
    with pytest.raises(Transient):
        await control.level([])
    await control.aclose()


async def test_new_certificates_are_taken_without_a_restart(ca: FakeCA, tmp_path: Path) -> None:
    async with relay(ca) as on, contextlib.aclosing(on.control()) as control:
        await control.level([])
        successor = FakeCA(tmp_path / "next")
        successor.issue()
        for name in ("tls.key", "tls.crt", "ca.crt"):
            (successor.folder / name).replace(ca.folder / name)
        await control.level([])  # on the connection that is there
        async with contextlib.aclosing(on.control()) as another:
            await another.level([])


# The first bytes of a handshake that says that more is to come.
_HALF_A_HANDSHAKE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize(
    "say", [b"", _HALF_A_HANDSHAKE, b"GET /livez HTTP/1.1\r\n\r\n"], ids=["silent", "half", "http"]
)
async def test_a_thousand_connections_that_do_not_shake_hands_keep_nobody_out(ca: FakeCA, say: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with relay(ca) as on, contextlib.aclosing(on.control()) as control:
        with contextlib.ExitStack() as stack:
            for _ in range(1000):
                one = stack.enter_context(socket.socket())
                one.setblocking(False)
                await loop.sock_connect(one, ("127.0.0.1", on.at.port))
                with contextlib.suppress(OSError):
                    one.send(say)
            async with asyncio.timeout(3):
                await control.level([])
            assert len(on.server.strangers) <= 128


async def test_who_shakes_hands_and_makes_no_call_is_dropped(ca: FakeCA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_FIRST_CALL_S", 0.3)
    async with relay(ca) as on:
        trust = tls.trusting(ca.file)
        for said in (b"", b"GET /livez HTT"):
            reader, writer = await asyncio.open_connection("127.0.0.1", on.at.port, ssl=trust)
            writer.write(said)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.transport.abort()
        await until(lambda: not on.server.strangers)


async def test_who_has_made_a_call_stays_connected(ca: FakeCA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_FIRST_CALL_S", 0.1)
    async with relay(ca) as on:
        reader, writer = await asyncio.open_connection("127.0.0.1", on.at.port, ssl=tls.trusting(ca.file))
        for _ in range(2):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(5):
                assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.3)  # longer than a stranger may stay
        assert not on.server.strangers
        writer.transport.abort()


async def test_calls_under_way_end_before_the_relay_does(ca: FakeCA) -> None:
    async with relay(ca) as on, contextlib.aclosing(on.control()) as control:
        await control.level([])
        async with connect(
            f"{on.at.websocket_url}/api/events/in",
            ssl=tls.trusting(ca.file),
            subprotocols=[Subprotocol("prefect")],
            proxy=None,
        ) as socket_:
            on.server.should_exit = True
            with pytest.raises(ConnectionClosed):
                await socket_.recv()


# As a process


@contextlib.contextmanager
def command(ca: FakeCA, *arguments: str, **changed: str | None) -> Iterator["subprocess.Popen[bytes]"]:
    """`flowgroup relay` with what it needs in its environment; `changed` replaces or takes away."""
    key = ca.folder / "control.key"
    key.write_text(f"{CONTROL_KEY}\n")
    told: dict[str, str | None] = {
        "PATH": os.environ["PATH"],
        "HOME": "/nowhere",
        "FLOWGROUP_HOME": str(ca.folder),
        "PYTHONPATH": str(Path(__file__).parents[2] / "agent"),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_API_KEY": "the-real-token",
        "FLOWGROUP_RELAY_CONTROL_KEY_FILE": str(key),
        "FLOWGROUP_RELAY_TLS_CERT": str(ca.port().cert),
        "FLOWGROUP_RELAY_TLS_KEY": str(ca.port().key),
        **changed,
    }
    env = {name: value for name, value in told.items() if value is not None}
    with subprocess.Popen(
        [sys.executable, "-m", "flowgroup", "relay", *arguments], stderr=subprocess.PIPE, env=env
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::]"])
def test_the_command_serves_until_it_is_told_to_stop(ca: FakeCA, host: str) -> None:
    port = free_port()
    at = f"https://127.0.0.1:{port}"
    trust = ssl.create_default_context(cafile=ca.file)

    def answers(path: str) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(at + path, verify=trust, trust_env=False).status_code == 200
        return False

    with command(ca, "--tcp", f"{host}:{port}") as process:
        wait_until(lambda: answers("/readyz"), timeout_s=20, what="the relay is ready")
        assert answers("/livez")
        body = {"attempts": []}
        shown = {"Authorization": f"Bearer {CONTROL_KEY}"}
        with httpx.Client(verify=trust, trust_env=False) as daemon:
            assert daemon.put(f"{at}/flowgroup/attempts", json=body).status_code == 401
            assert daemon.put(f"{at}/flowgroup/attempts", json=body, headers=shown).json() == {"open": 0}
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert b"the-real-token" not in process.stderr.read()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"PREFECT_API_URL": None}, "PREFECT_API_URL"),
        ({"FLOWGROUP_RELAY_CONTROL_KEY_FILE": None}, "FLOWGROUP_RELAY_CONTROL_KEY_FILE"),
        ({"FLOWGROUP_RELAY_CONTROL_KEY_FILE": "/nowhere"}, "FLOWGROUP_RELAY_CONTROL_KEY_FILE"),
        ({"FLOWGROUP_RELAY_TLS_CERT": None}, "FLOWGROUP_RELAY_TLS_CERT"),
        ({"FLOWGROUP_RELAY_TLS_KEY": "/nowhere"}, "cannot be used"),
        ({"FLOWGROUP_RELAY_TLS_CERT": None, "FLOWGROUP_RELAY_TLS_KEY": None}, "tokens pass through it"),
    ],
)
def test_the_command_refuses_what_is_missing_by_its_name(ca: FakeCA, changed: dict[str, str], said: str) -> None:
    with command(ca, "--tcp", f"0.0.0.0:{free_port()}", **changed) as process:
        assert process.wait(20) == 2
        assert process.stderr is not None
        assert said in process.stderr.read().decode()


@pytest.mark.parametrize("key", ["", "short", "sixteen letters and a space", "sechzehn-und-größer"])
def test_a_control_key_that_cannot_be_shown_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "key").write_text(key)
    with pytest.raises(Refused, match="FLOWGROUP_RELAY_CONTROL_KEY_FILE"):
        control_key(RelaySettings(control_key_file=tmp_path / "key"))


def test_without_tls_it_listens_on_loopback_only(tmp_path: Path) -> None:
    assert main.secured_by(RelaySettings(), ("127.0.0.1", 0)) is None
    assert main.secured_by(RelaySettings(), tmp_path / "relay.sock") is None
    with pytest.raises(Refused, match="FLOWGROUP_RELAY_TLS_CERT"):
        main.secured_by(RelaySettings(), ("0.0.0.0", 0))
