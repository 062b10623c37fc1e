"""The relay as a process of its own."""

import contextlib
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowgroup.errors import Refused
from flowgroup.relay.main import listening
from flowgroup.relay.upstream import read_secrets
from tests.servers import free_port, wait_until

_SECRETS: dict[str, Any] = {
    "api_url": "http://127.0.0.1:9/api",
    "api_key": "the-real-token",
    "api_auth_string": None,
    "custom_headers": {},
    "control_key": "control-key-of-tests",
}
_PROGRAM = """
import argparse, pathlib, sys
from flowgroup.relay.main import main
parser = argparse.ArgumentParser()
parser.add_argument("--uds", type=pathlib.Path)
parser.add_argument("--tcp")
sys.exit(main(parser.parse_args()))
"""


@contextlib.contextmanager
def relay_process(
    *arguments: str, secrets: dict[str, Any] | None = None, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A relay with these arguments, secrets and settings."""
    agent = str(Path(__file__).parents[2] / "agent")
    home = tempfile.TemporaryDirectory(prefix="fg-")
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHONPATH": agent, "FLOWGROUP_HOME": home.name, **settings}
    started = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    assert started.stdin is not None
    with home, started:
        try:
            started.stdin.write(json.dumps({**_SECRETS, **(secrets or {})}).encode() + b"\n")
            started.stdin.close()
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def _health(address: str, uds: Path | None = None) -> Any:
    if uds is not None and not uds.exists():  # httpx would leave a socket open
        return None
    transport = httpx.HTTPTransport(uds=str(uds) if uds else None)
    with httpx.Client(transport=transport) as client, contextlib.suppress(httpx.TransportError):
        return client.get(f"{address}/flowgroup/health").json()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_on_a_private_socket_until_it_is_told_to_stop(tmp_path: Path, number: int) -> None:
    path = tmp_path / "home" / "relay.sock"
    with relay_process("--uds", str(path)) as relay:
        wait_until(lambda: _health("http://relay", path) is not None, timeout_s=20, what="the relay answers")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        relay.send_signal(number)
        assert relay.wait(10) == 0
        assert not path.exists()
        assert relay.stderr is not None
        said = relay.stderr.read().decode()
        assert "relay_listens" in said
        assert "the-real-token" not in said


def test_it_serves_over_tcp_too(tmp_path: Path) -> None:
    port = free_port()
    with relay_process("--tcp", f"127.0.0.1:{port}"):
        wait_until(lambda: _health(f"http://127.0.0.1:{port}") is not None, timeout_s=20, what="the relay answers")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_other_processes_cannot_look_into_it(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    with relay_process("--uds", str(path)) as relay:
        wait_until(lambda: _health("http://relay", path) is not None, timeout_s=20, what="the relay answers")
        shown = Path(f"/proc/{relay.pid}/cmdline").read_bytes()
        assert b"the-real-token" not in shown
        if os.geteuid() == 0:  # root sees all; what is not dumpable belongs to root for everybody else
            assert b"the-real-token" not in Path(f"/proc/{relay.pid}/environ").read_bytes()
        else:
            with pytest.raises(PermissionError):
                Path(f"/proc/{relay.pid}/environ").read_bytes()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    with listening(path) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert listener.fileno() > 0
        with pytest.raises(Refused, match="already"), listening(path):
            raise AssertionError("two listen")
    assert not path.exists()


def test_a_port_that_is_taken_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(Refused, match="cannot listen"),
        listening(("127.0.0.1", taken.getsockname()[1])),
    ):
        raise AssertionError("two listen")


@pytest.mark.parametrize(
    "line",
    ["", "x", "[]", "{}", '{"api_url": "ftp://the-secret"}', json.dumps({**_SECRETS, "api_key": ["the-secret"]})],
)
def test_wrong_secrets_are_refused_without_repeating_them(line: str) -> None:
    with pytest.raises(Refused) as refused:
        read_secrets(io.StringIO(line))
    assert "the-secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_secrets_are_one_line() -> None:
    secrets = read_secrets(io.StringIO(json.dumps(_SECRETS) + "\nmore"))
    assert secrets.api_key is not None
    assert secrets.api_key.get_secret_value() == "the-real-token"


def test_its_own_figures_are_at_a_port_of_their_own_and_nothing_else_is(tmp_path: Path) -> None:
    path, port = tmp_path / "home" / "relay.sock", free_port()
    figures = f"http://127.0.0.1:{port}"
    with relay_process("--uds", str(path), FLOWGROUP_RELAY_METRICS_PORT=str(port)):
        wait_until(lambda: _health("http://relay", path) is not None, timeout_s=60, what="the relay answers")
        shown = httpx.get(f"{figures}/metrics").text
        assert "flowgroup_relay_spool_limit_bytes 5.36870912e+08" in shown
        assert "flowgroup_process_resident_memory_bytes" in shown
        assert "flowgroup_slots" not in shown
        assert "the-real-token" not in shown
        assert httpx.get(f"{figures}/livez").status_code == 200
        for other in ("/flowgroup/attempts", "/api/flow_runs/filter", "/flowgroup/metrics"):
            assert httpx.get(f"{figures}{other}").status_code == 404
