"""
The command line. Exit status: 0 done, 1 it failed, 2 the input is wrong (the text says what, and the remedy), 130 interrupted.

Nothing of a room is imported before its command runs: `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from flowgroup import __version__
from flowgroup.errors import FlowgroupError, Refused
from flowgroup.operate.arguments import add_commands

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    args = parser().parse_args(argv)
    command: Command = args.command
    try:
        status = command(args)
    except Refused as exc:
        print(f"flowgroup: {exc}", file=sys.stderr)
        status = 2
    except FlowgroupError as exc:
        print(f"flowgroup: {exc}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def parser() -> argparse.ArgumentParser:
    """All commands; `docs/cli.md` is made from it."""
    parser = argparse.ArgumentParser(
        prog="flowgroup", description="Runs Prefect flows, each flow on a Dask cluster of its own."
    )
    parser.add_argument("--version", action="version", version=f"flowgroup {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _start(commands.add_parser("start", help="take the runs of a work pool: the daemon"))
    _relay(commands.add_parser("relay", help="clusters' way to Prefect's API, on a host of its own (Kubernetes)"))
    _dev(commands.add_parser("dev", help="a Prefect server, a relay and the daemon on this machine, until Ctrl-C"))
    _demo(commands.add_parser("demo", help="try everything once on this machine; leaves nothing behind"))
    _deploy(commands.add_parser("deploy", help="deploy a flow: path/to/file.py:flow"))
    _keys(commands.add_parser("keys", help="keys that sign and verify flows"))
    add_commands(commands)
    _check(commands.add_parser("check", help="run a hello flow on a work pool, and say how it went"))
    _certs(commands.add_parser("certs", help="certificates and keys of an installation on Kubernetes"))
    _janitor(commands.add_parser("janitor", help="remove clusters on Kubernetes that no daemon keeps any more"))
    return parser


def _start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", help="the work pool (FLOWGROUP_POOL); it is made when it is not there")
    parser.add_argument("--backend", choices=["local"], help="where clusters run (FLOWGROUP_BACKEND; default local)")
    parser.add_argument("--home", type=Path, help="where state is kept (FLOWGROUP_HOME; default ~/.flowgroup)")
    parser.add_argument("--slots", type=int, help="how many runs may be under way at once (FLOWGROUP_SLOTS)")
    parser.add_argument("--queue", action="append", dest="queues", help="only this work queue; may be given again")
    parser.add_argument(
        "--stand-by",
        action="store_true",
        default=None,
        help="wait while another daemon serves the pool, and take its place when it ends (FLOWGROUP_STAND_BY)",
    )
    parser.add_argument("--name", help="the worker's name in Prefect's UI (FLOWGROUP_NAME)")
    parser.add_argument(
        "--poll-interval-s", type=float, help="how often to ask for due runs (FLOWGROUP_POLL_INTERVAL_S)"
    )
    parser.add_argument("--health-port", type=int, help="port of /livez, /readyz and /metrics (FLOWGROUP_HEALTH_PORT)")
    parser.add_argument("--public-keys", type=Path, help="Ed25519 public keys: only flows signed by them run")
    parser.set_defaults(command=_run_start)


def _run_start(args: argparse.Namespace) -> int:
    from flowgroup.start import start

    return start(vars(args))


def _relay(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What runs say to Prefect's API passes here and gets the token: PREFECT_API_URL, PREFECT_API_KEY or "
        "PREFECT_API_AUTH_STRING, FLOWGROUP_RELAY_CONTROL_KEY_FILE, FLOWGROUP_RELAY_TLS_CERT, FLOWGROUP_RELAY_TLS_KEY. "
        "The local backend starts one of its own."
    )
    parser.add_argument("--tcp", metavar="HOST:PORT", help="listen with TLS, for example on 0.0.0.0:4280")
    parser.add_argument("--uds", type=Path, metavar="PATH", help="listen on a Unix socket")
    parser.set_defaults(command=_run_relay)


def _run_relay(args: argparse.Namespace) -> int:
    from flowgroup.relay.main import command

    return command(args)


def _dev(parser: argparse.ArgumentParser) -> None:
    from flowgroup.dev import service

    service.add_arguments(parser)
    parser.set_defaults(command=service.run)


def _demo(parser: argparse.ArgumentParser) -> None:
    from flowgroup.dev import demo

    demo.add_arguments(parser)
    parser.set_defaults(command=demo.run)


def _deploy(parser: argparse.ArgumentParser) -> None:
    from flowgroup.client import shell

    shell.add_arguments(parser)
    parser.set_defaults(command=shell.deploy_command)


def _keys(parser: argparse.ArgumentParser) -> None:
    from flowgroup.client import shell

    shell.add_keys_arguments(parser)


def _certs(parser: argparse.ArgumentParser) -> None:
    from flowgroup.edge.certs import main as certs

    certs.add_arguments(parser)


def _janitor(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Removes the Dask clusters of some namespaces that no daemon has renewed for long, whichever daemon's they were. "
        "What flowgroup has not made is left alone."
    )
    parser.add_argument(
        "--namespace", action="append", dest="namespaces", help="where the clusters are; may be given again"
    )
    for flag, default, what in (
        ("after", 1800.0, "how long a daemon may be silent"),
        ("again", 120.0, "how long it has until the second look"),
        ("operator-timeout", 30.0, "how long the Dask operator may take to delete"),
    ):
        parser.add_argument(f"--{flag}-s", type=float, default=default, metavar="S", help=f"{what} ({default:g})")
    parser.set_defaults(command=_run_janitor)


def _run_janitor(args: argparse.Namespace) -> int:
    from flowgroup.edge.kubernetes import janitor

    return janitor.command(args)


def _check(parser: argparse.ArgumentParser) -> None:
    from flowgroup.dev import check

    check.add_arguments(parser)
