"""
The relay's process: startup, loop, shutdown.

It holds the API token, so no other process of the same user may read its memory. On one machine it gets the token on its
standard input: an environment can be read by every process of the same user. In a container of its own the token stands
in the environment.
"""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from flowgroup import log, memory
from flowgroup.edge import forward, lines, tls
from flowgroup.errors import Refused
from flowgroup.health import Health, serve
from flowgroup.metrics import LOOP_BLOCKED, LOOP_LAG, RELAY
from flowgroup.relay import patterns
from flowgroup.relay.control import Control
from flowgroup.relay.intake import Intake
from flowgroup.relay.owners import Owners
from flowgroup.relay.probes import probes
from flowgroup.relay.proxy import Proxy
from flowgroup.relay.records import Records
from flowgroup.relay.serving import GuardedServer, most_connections, server_config
from flowgroup.relay.sockets import Sockets
from flowgroup.relay.spool.spooling import Spool, spooling
from flowgroup.relay.strict import NOTHING, Granted
from flowgroup.relay.tokens import Attempts
from flowgroup.relay.upstream import Secrets, Upstream, read_secrets, secrets_of, tls_of
from flowgroup.settings import RelaySettings, Settings
from flowgroup.watchdog import Seen, watched

Address = Path | tuple[str, int]
"""Where the relay listens: a Unix socket's path, or a host and port (0: a free one)."""

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_PR_SET_DUMPABLE = 4
_BACKLOG = 512
_ANSWERED_WITHIN_S = 2.0  # after the longest that a call is held
_STUCK_S = 120.0  # a disk may be slow; one that hangs for so long is said to do so
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(args: argparse.Namespace) -> int:
    """`relay --uds PATH` or `relay --tcp HOST:PORT`, with its secrets on standard input."""
    return _main(args, lambda _: read_secrets(sys.stdin))


def command(args: argparse.Namespace) -> int:
    """`flowgroup relay`: the same, with its secrets in the environment and in the files that this names."""
    return _main(args, secrets_of)


def _main(args: argparse.Namespace, secrets: Callable[[Settings], Secrets]) -> int:
    unreadable_by_others()  # first of all: nothing secret is in memory yet
    memory.gives_back()
    settings = Settings.read()
    log.configure(room="relay", level=settings.daemon.log_level)
    run(settings, secrets(settings), listen=_address(args))
    return 0


def _address(args: argparse.Namespace) -> Address:
    tcp: str | None = getattr(args, "tcp", None)
    if (args.uds is None) == (tcp is None):
        raise Refused("the relay wants one of --uds and --tcp")
    if tcp is None:
        return Path(args.uds)
    host, _, port = tcp.rpartition(":")
    if not port.isdigit():
        raise Refused(f"--tcp {tcp} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def run(settings: Settings, secrets: Secrets, *, listen: Address) -> None:
    """
    Serve until SIGTERM or SIGINT; a second one does not wait for calls under way.

    Raises Refused when it cannot listen there, or only without TLS where other hosts could.
    """
    verify = tls_of(settings.prefect) if secrets.api_url.startswith("https:") else None  # certificates take 7 MB
    secured = secured_by(settings.relay, listen)
    with listening(listen) as listener:
        at = str(listen) if isinstance(listen, Path) else listener.getsockname()[:2]
        log.get().info("relay_listens", at=at, tls=secured is not None)
        asyncio.run(_serve(settings, secrets, listener, spool_folder(settings, listen), verify, secured))


def spool_folder(settings: Settings, listen: Address) -> Path:
    """Where the spool is: beside the socket, if nobody says where."""
    return settings.relay.spool or (listen.parent if isinstance(listen, Path) else settings.daemon.home) / "spool"


def secured_by(settings: RelaySettings, listen: Address) -> ssl.SSLContext | None:
    """TLS as the settings say; None for a Unix socket, and on loopback if they say nothing. Raises Refused."""
    if isinstance(listen, Path):
        return None
    if settings.tls_cert and settings.tls_key:
        return tls.showing(settings.tls_cert, settings.tls_key)
    if settings.tls_cert or settings.tls_key or listen[0] not in _LOOPBACK:
        raise Refused(
            f"the relay listens on {listen[0]} with TLS only: tokens pass through it. Set FLOWGROUP_RELAY_TLS_CERT and "
            "FLOWGROUP_RELAY_TLS_KEY, files with its certificate and key, or listen on 127.0.0.1."
        )
    return None


async def _serve(
    settings: Settings,
    secrets: Secrets,
    listener: socket.socket,
    folder: Path,
    verify: ssl.SSLContext | None,
    secured: ssl.SSLContext | None,
) -> None:
    health, relay = Health(room=RELAY), settings.relay
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(forward.client(verify=verify or False))
        upstream = Upstream(secrets, client, verify=verify, settings=settings.relay)
        moved = health.loop("spool", limit_s=_STUCK_S)
        spool = await stack.enter_async_context(spooling(settings.relay, upstream, folder, moved))
        app = make_app(settings.relay, secrets, upstream, spool, health)
        config = server_config(app, finish_s=settings.relay.hold_s + _ANSWERED_WITHIN_S)
        server = GuardedServer(config, listener, secured, most=most_connections())

        def stop() -> None:
            health.is_ready = False
            server.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        if relay.metrics_port is not None:
            names = "FLOWGROUP_RELAY_METRICS_HOST, FLOWGROUP_RELAY_METRICS_PORT"
            figures = serve(health, relay.metrics_host, relay.metrics_port, settings=names)
            log.get().info("relay_metrics", port=await stack.enter_async_context(figures))
        stack.enter_context(watched(asyncio.get_running_loop(), Seen(LOOP_LAG.observe, LOOP_BLOCKED.inc)))
        gc.collect()
        gc.freeze()  # what is there now stays: to look through it again and again takes tens of milliseconds
        health.ready()
        await server.serve(sockets=[listener])


def make_app(
    settings: RelaySettings, secrets: Secrets, upstream: Upstream, spool: Spool, health: Health | None = None
) -> Starlette:
    """The relay as an ASGI application."""
    key = secrets.control_key.get_secret_value()
    attempts = Attempts(key, patterns.told(settings.redact, settings.redact_file))
    granted = Granted(settings.variables, settings.blocks, settings.deployments)
    owners = Owners(
        attempts, upstream, hold_s=settings.hold_s, granted=granted if settings.profile == "strict" else NOTHING
    )
    intake = Intake(owners, spool)
    proxy = Proxy(attempts, upstream, owners, intake, settings)
    sockets = Sockets(attempts, upstream, intake, settings)
    records = Records(attempts, intake)
    control = Control(attempts, settings, key)
    return Starlette(
        routes=[
            *probes(health or Health(is_ready=True)),
            Route("/flowgroup/attempts", control.level, methods=["PUT"]),
            Route("/flowgroup/attempts/{attempt}", control.open, methods=["PUT"]),
            Route("/flowgroup/attempts/{attempt}", control.close, methods=["DELETE"]),
            Route("/flowgroup/health", control.health, methods=["GET"]),
            Route("/flowgroup/metrics", control.metrics, methods=["GET"]),
            Route("/flowgroup/sign", control.sign, methods=["POST"]),
            Route("/flowgroup/records", records.take, methods=["POST"]),
            Route("/api/{path:path}", proxy.handle, methods=_METHODS),
            WebSocketRoute("/api/events/in", sockets.events_in),
            WebSocketRoute("/api/events/out", sockets.events_out),
            WebSocketRoute("/{path:path}", sockets.refuse),
        ]
    )


@contextlib.contextmanager
def listening(at: Address) -> Iterator[socket.socket]:
    """
    The listening socket. A Unix socket is for its owner alone (0600 in a folder of 0700), replaces one that
    nobody listens on any more, and is removed at the end. Raises Refused when somebody listens there.
    """
    if isinstance(at, Path):
        made, remove = _unix_socket(at), at
    else:
        made, remove = lines.tcp(*at), None
    try:
        yield made
    finally:
        made.close()
        if remove is not None:
            remove.unlink(missing_ok=True)


def _unix_socket(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    if _is_answered(path):
        raise Refused(f"a relay listens on {path} already")
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    before = os.umask(0o177)  # between bind and chmod the socket would be open to others
    try:
        made.bind(str(half))
        made.listen(_BACKLOG)
        half.replace(path)  # whoever sees the socket can connect to it
    except OSError as exc:
        made.close()
        raise Refused(f"the relay cannot listen on {path}: {exc}") from exc
    finally:
        os.umask(before)
    return made


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def unreadable_by_others() -> None:
    """Other processes of the same user may not read this one's memory: it has the token (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
