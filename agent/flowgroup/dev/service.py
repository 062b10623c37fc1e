"""`flowgroup dev`: a Prefect server, a relay and the daemon on this machine, until Ctrl-C."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from flowgroup.dev.minder import Minded, end_pool, minded, uninterrupted
from flowgroup.dev.server import start_prefect_server
from flowgroup.edge.processes import python, running
from flowgroup.errors import FlowgroupError, Permanent
from flowgroup.settings import environment_for_user_code

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_SAID_BYTES = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", default="dev", help="the work pool to make and serve (default: dev)")
    parser.add_argument("--home", type=Path, default=Path.home() / ".flowgroup", help="default: ~/.flowgroup")
    parser.add_argument("--port", type=int, default=4200, help="of the Prefect server (default: 4200)")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; then nothing is left running. Raises Refused when another one serves there."""
    ends_like_ctrl_c()
    home: Path = args.home.expanduser().absolute()
    with minded(home) as mind:
        print("starting a Prefect server …", flush=True)
        url = start_prefect_server(mind, port=args.port, cache=home / "cache")
        process = start_daemon(mind, url, pool=args.pool, log=home / "daemon.log")
        print(f"Prefect's UI   {url.removesuffix('/api')}\nPrefect's API  {url}")
        print(f"work pool      {args.pool}\nthe log        {home / 'daemon.log'}")
        print(f"\nIn another terminal:\n  export PREFECT_API_URL={url}")
        print(f"  flowgroup deploy FILE.py:FLOW --name NAME --pool {args.pool}\nCtrl-C ends everything.", flush=True)
        status = process.wait()
        raise Permanent(f"the daemon ended with status {status}: {_said(home / 'daemon.log')}")


def ends_like_ctrl_c() -> None:
    """A plain `kill` cleans up as Ctrl-C does, and so does a closed terminal unless `nohup` says otherwise."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def as_command(main: Callable[[], int]) -> NoReturn:
    """Run it and end the process: with its status, with one line for an error of ours, with 130 after Ctrl-C."""
    try:
        sys.exit(main())
    except FlowgroupError as exc:
        sys.exit(f"flowgroup: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)


def start_daemon(
    mind: Minded,
    url: str,
    *,
    pool: str,
    keys: Path | None = None,
    log: Path,
    env: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """
    The daemon against this API with the `local` backend, when it is ready. Raises Permanent with its last words.

    `env` is added to its environment.
    """
    mind.pool(pool)
    with uninterrupted():
        process = _popen(_environment(url, mind.folder, env), pool, keys, log)
        mind.process(running(process.pid))
    _wait_ready(process, mind.folder / pool / "daemon.json", log)
    return process


@contextmanager
def daemon(
    url: str,
    *,
    pool: str,
    home: Path,
    keys: Path | None = None,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> "Iterator[subprocess.Popen[bytes]]":
    """
    The same for the length of a block, for tests. At its end everything that the daemon started is ended too. `env` is
    added to its environment.
    """
    process = _popen(_environment(url, home, env), pool, keys, log)
    try:
        _wait_ready(process, home / pool / "daemon.json", log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_pool(home / pool)


def _environment(url: str, home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**environment_for_user_code(), **(more or {}), "PREFECT_API_URL": url, "FLOWGROUP_HOME": str(home)}


def _popen(env: dict[str, str], pool: str, keys: Path | None, log: Path | None) -> "subprocess.Popen[bytes]":
    arguments = ["start", "--pool", pool, "--backend", "local", *(["--public-keys", str(keys)] if keys else [])]
    out = log.open("ab") if log else None
    try:
        return subprocess.Popen(  # noqa: S603
            python("flowgroup", *arguments), env=env, stdout=out, stderr=out, start_new_session=True
        )
    finally:
        if out:
            out.close()


def _wait_ready(process: "subprocess.Popen[bytes]", ready: Path, log: Path | None) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not _is_announced(ready, process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Permanent(f"the daemon did not start: {_said(log)}")
        time.sleep(0.05)


def _is_announced(ready: Path, pid: int) -> bool:
    """By this daemon: one that was killed leaves its announcement behind."""
    try:
        return bool(json.loads(ready.read_text())["pid"] == pid)
    except (OSError, ValueError, KeyError):
        return False


def _said(log: Path | None) -> str:
    return log.read_text(errors="replace")[-_SAID_BYTES:] if log else ""
