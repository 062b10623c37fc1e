"""`flowgroup dev`: a Prefect server, a relay and the daemon on this machine, until Ctrl-C."""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flowgroup.dev.server import prefect_server
from flowgroup.edge.processes import python
from flowgroup.errors import Permanent
from flowgroup.settings import environment_for_user_code

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", default="dev", help="the work pool to make and serve (default: dev)")
    parser.add_argument("--home", type=Path, default=Path.home() / ".flowgroup", help="default: ~/.flowgroup")
    parser.add_argument("--port", type=int, default=4200, help="of the Prefect server (default: 4200)")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; then nothing is left running."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    home: Path = args.home.expanduser().resolve()
    with prefect_server(home / "prefect", port=args.port, cache=home / "cache") as url:
        print(f"Prefect's UI   {url.removesuffix('/api')}\nPrefect's API  {url}")
        with daemon(url, pool=args.pool, home=home) as process:
            print(f"work pool      {args.pool}\n\nIn another terminal:\n  export PREFECT_API_URL={url}")
            print(
                f"  flowgroup deploy FILE.py:FLOW --name NAME --pool {args.pool}\nCtrl-C ends everything.",
                flush=True,
            )
            return process.wait()


@contextmanager
def daemon(
    url: str, *, pool: str, home: Path, keys: Path | None = None, log: Path | None = None, env: Mapping[str, str] | None = None
) -> "Iterator[subprocess.Popen[bytes]]":
    """
    The daemon against this API, with the `local` backend, ready when the block begins. At its end everything that the
    daemon started is ended too. `env` is added to its environment.
    """
    whole_env = {**environment_for_user_code(), **(env or {}), "PREFECT_API_URL": url, "FLOWGROUP_HOME": str(home)}
    arguments = [
        "start",
        "--pool",
        pool,
        "--backend",
        "local",
        *(["--public-keys", str(keys)] if keys else []),
    ]
    out = log.open("ab") if log else None
    process = subprocess.Popen(python("flowgroup", *arguments), env=whole_env, stdout=out, stderr=out, start_new_session=True)  # noqa: S603
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
        if out:
            out.close()
        _end_the_rest(home / pool)


def _wait_ready(process: "subprocess.Popen[bytes]", ready: Path, log: Path | None) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:] if log else ""
            raise Permanent(f"the daemon did not start: {said}")
        time.sleep(0.05)


def _end_the_rest(folder: Path) -> None:
    """Clusters and the relay outlive a daemon on purpose; here they must not."""
    import asyncio

    from flowgroup.edge.local import Local
    from flowgroup.settings import PrefectSettings

    async def end() -> None:
        backend = Local(folder, PrefectSettings())
        for found in await backend.find():
            await backend.delete(found.name)
        await backend.end_relay()

    asyncio.run(end())


def _interrupt(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)
