"""
The processes that a backend starts: `python -m flowgroup.rooms driver|zygote|child|relay`. Not for people.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from flowgroup.errors import FlowgroupError


def main() -> None:
    """Run one room's process and exit."""
    parser = argparse.ArgumentParser(prog="python -m flowgroup.rooms")
    rooms = parser.add_subparsers(required=True)
    _driver(rooms.add_parser("driver"))
    _zygote(rooms.add_parser("zygote"))
    _child(rooms.add_parser("child"))
    _relay(rooms.add_parser("relay"))
    args = parser.parse_args()
    try:
        sys.exit(args.command(args))
    except FlowgroupError as exc:
        sys.exit(f"flowgroup: {exc}")


def _driver(parser: argparse.ArgumentParser) -> None:
    """What a backend starts beside a cluster; not for people."""
    parser.add_argument("--cluster", required=True)
    for name in ("folder", "storage"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--daemon", required=True, help="a Unix socket's path, or tls://host:port")
    parser.add_argument("--relay", required=True, help="a Unix socket's path, or https://host:port")
    parser.add_argument("--ca", type=Path, help="PEM file: who may vouch for the daemon and the relay")
    parser.add_argument("--spec", type=Path, help="default: spec.json in the folder")
    parser.add_argument("--secret", type=Path, help="default: the file secret in the folder")
    parser.add_argument("--scheduler", help="tcp://host:port of the Dask scheduler; default: what scheduler.json says")
    parser.add_argument("--levels", help="tcp://host:port where it tells its groups' sizes; default: the file levels")
    parser.set_defaults(command=_run_driver)


def _run_driver(args: argparse.Namespace) -> int:
    from flowgroup import log, memory
    from flowgroup.driver.main import Place, run
    from flowgroup.edge.files import needed_text
    from flowgroup.model.endpoint import Endpoint
    from flowgroup.model.ids import ClusterName
    from flowgroup.model.spec import ClusterSpec
    from flowgroup.settings import Settings

    settings = Settings.read()
    log.configure(room="driver", level=settings.daemon.log_level)
    memory.gives_back()
    folder: Path = args.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # in a pod nobody has made it
    place = Place(
        cluster=ClusterName(args.cluster),
        spec=ClusterSpec.model_validate_json(needed_text(args.spec or folder / "spec.json", "--spec")),
        folder=folder,
        daemon=Endpoint.parse(args.daemon, ca=args.ca),
        relay=Endpoint.parse(args.relay, ca=args.ca),
        storage=args.storage,
        secret=needed_text(args.secret or folder / "secret", "--secret").strip(),
        scheduler=args.scheduler,
        levels=args.levels,
    )
    asyncio.run(run(settings, place))
    return 0


def _zygote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("socket", type=int)
    parser.set_defaults(command=_run_zygote)


def _run_zygote(args: argparse.Namespace) -> int:
    from flowgroup.driver import nursery

    nursery.main(args.socket)
    return 0


def _child(parser: argparse.ArgumentParser) -> None:
    """A run's process that was not forked."""
    parser.add_argument("brief", type=int)
    parser.add_argument("leash", type=int)
    parser.add_argument("shipper", type=int)
    parser.set_defaults(command=_run_child)


def _run_child(args: argparse.Namespace) -> int:
    from flowgroup.driver import child, versions

    with open(args.brief, "rb") as brief:  # noqa: PTH123  a descriptor, not a path
        return versions.or_asked(child.run)(brief.read(), args.leash, args.shipper)


def _relay(parser: argparse.ArgumentParser) -> None:
    """What a backend starts; it reads its secrets from standard input."""
    parser.add_argument("--uds", type=Path)
    parser.add_argument("--tcp", metavar="HOST:PORT")
    parser.set_defaults(command=_run_relay)


def _run_relay(args: argparse.Namespace) -> int:
    from flowgroup.relay.main import main as relay_main

    return relay_main(args)


if __name__ == "__main__":
    main()
