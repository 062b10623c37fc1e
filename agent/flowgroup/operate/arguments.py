"""The operators' commands as parsers. Nothing heavy is imported before a command runs."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from flowgroup import log

Commands = Any  # argparse gives its sub-parsers no public type


def add_commands(commands: Commands) -> None:
    """All of them, below `flowgroup`."""
    _status(commands.add_parser("status", help="groups, clusters, workers and runs, and why each cluster lives"))
    _logs(commands.add_parser("logs", help="of a run, or of a cluster's processes"))
    _cluster(commands.add_parser("cluster", help="list, show, reset and scale clusters"))
    _plan(commands.add_parser("plan", help="the coming runs, their clusters, and how much there is at most"))
    _render(commands.add_parser("render", help="a deployment's cluster as Kubernetes objects, without Kubernetes"))
    _doctor(commands.add_parser("doctor", help="find what is wrong, and say how to put it right"))


def _status(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "How the daemon says that everything stands. It is asked on its health port; with the kubernetes backend through "
        "Kubernetes' API (the right to get pods/proxy), unless the command runs in the daemon's own pod: kubectl exec."
    )
    _where(parser)
    parser.add_argument("--watch", action="store_true", help="again every 2 s, until Ctrl-C")
    parser.set_defaults(command=_lazily("clusters", "status"))


def _logs(parser: argparse.ArgumentParser) -> None:
    parser.description = "A run's log as Prefect's API has it; with --cluster what a cluster's processes said last."
    parser.add_argument("target", metavar="RUN", help="a flow run's id or name; with --cluster a cluster's name")
    parser.add_argument("--cluster", action="store_true", help="RUN is the name of a cluster")
    parser.add_argument(
        "--role", choices=["driver", "scheduler", "worker"], help="with --cluster: only these processes"
    )
    parser.add_argument("--lines", type=_positive, default=100, help="with --cluster: how many of each (100)")
    parser.add_argument("--follow", action="store_true", help="of a run: go on until it has ended")
    _where(parser)
    parser.set_defaults(command=_lazily("logs", "command"))


def _cluster(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    every = commands.add_parser("list", help="those that exist, and why")
    _where(every)
    every.set_defaults(command=_lazily("clusters", "list_"))
    show = commands.add_parser("show", help="one with its groups of workers and its runs")
    reset = commands.add_parser("reset", help="end it when its runs have ended; the next run gets a new one")
    scale = commands.add_parser("scale", help="have so many workers in a group at once")
    for one in (show, reset, scale):
        one.add_argument("cluster", metavar="CLUSTER", help="its name, or how no other one's begins")
        _where(one)
    show.set_defaults(command=_lazily("clusters", "show"))
    reset.description = (
        "Runs that it has go on; others wait, and get a new cluster when it has gone. What is asked is written on the cluster "
        "(a file in its folder, an annotation of its DaskCluster), and the daemon carries it out."
    )
    reset.add_argument("--wait", action="store_true", help="until it has gone")
    reset.set_defaults(command=_lazily("clusters", "reset"))
    scale.description = (
        "Within the numbers that the flow was deployed with. The workers come at once, also before there is work; those that "
        "stay without work go again as usual (FLOWGROUP_DRIVER_SCALE_IDLE_S), and none that works is ended. After 10 minutes "
        "what has not come is not waited for any more."
    )
    scale.add_argument("--group", default="default", help="the group of workers (default)")
    scale.add_argument("--workers", type=_natural, required=True, metavar="N")
    scale.set_defaults(command=_lazily("clusters", "scale"))


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Placed by the daemon's own code, without the daemon. A cluster counts with as many workers as it may have; a run is "
        "thought to take as long as its deployment's runs took lately. Exit status 1: a run that comes cannot be placed."
    )
    parser.add_argument("--hours", type=float, default=24.0, metavar="H", help="how far ahead (24)")
    _where(parser)
    parser.set_defaults(command=_lazily("plan", "command"))


def _render(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Prints a List as JSON, which is YAML too, by the daemon's own code. Kubernetes is not asked; Prefect's API only for a "
        "deployment. Secret values are not shown."
    )
    parser.add_argument(
        "deployment", nargs="?", metavar="FLOW/NAME", help="without it: of --set alone, and nobody is asked"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a job variable, JSON or a string, as a run says it",
    )
    parser.add_argument("--pool", help="the work pool (FLOWGROUP_POOL)")
    parser.add_argument("--json", action="store_true", help="it is JSON in any case")
    parser.set_defaults(command=_lazily("render", "command"))


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Looks at what the daemon of these settings needs, changes nothing but a small object in the store that it removes or "
        "overwrites, and says of each trouble what puts it right. Run it where the daemon runs, with its environment. "
        "Exit status 1: a check failed."
    )
    _where(parser)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this check; may be given again")
    parser.set_defaults(command=_lazily("doctor", "command"))


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", help="the work pool (FLOWGROUP_POOL); the only one that is served from the home")
    parser.add_argument("--home", type=Path, help="where the daemon keeps its state (FLOWGROUP_HOME)")
    parser.add_argument("--backend", choices=["local", "kubernetes"], help="where clusters run (FLOWGROUP_BACKEND)")
    parser.add_argument(
        "--agent-namespace", default="flowgroup", metavar="NAME", help="kubernetes: where the daemon is (flowgroup)"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of text")


def _lazily(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        log.configure(room="operate", level="error")  # to standard error: what is printed may be JSON
        status: int = getattr(import_module(f"flowgroup.operate.{module}"), name)(args)
        return status

    return run


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number
