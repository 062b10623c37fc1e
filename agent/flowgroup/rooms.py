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
    for name in ("folder", "daemon", "relay", "storage"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.set_defaults(command=_run_driver)


def _run_driver(args: argparse.Namespace) -> int:
    from flowgroup import log
    from flowgroup.driver.main import Place, run
    from flowgroup.model.ids import ClusterName
    from flowgroup.model.spec import ClusterSpec
    from flowgroup.settings import Settings

    settings = Settings.read()
    log.configure(room="driver", level=settings.daemon.log_level)
    spec = ClusterSpec.model_validate_json((args.folder / "spec.json").read_text())
    place = Place(ClusterName(args.cluster), spec, args.folder, args.daemon, args.relay, args.storage)
    asyncio.run(run(settings, place))
    return 0


def _zygote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("socket", type=int)
    parser.set_defaults(command=_run_zygote)


def _run_zygote(args: argparse.Namespace) -> int:
    from flowgroup.driver.main import zygote_main

    zygote_main(args.socket)
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
