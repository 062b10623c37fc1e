"""`flowgroup certs make|publish`: what the chart's Jobs run. For pods of the chart, not for people."""

import argparse
import asyncio
from pathlib import Path

from flowgroup.errors import Refused


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands below `flowgroup certs`."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    make = commands.add_parser("make", help="make certificates and keys that are missing or old, in Secrets")
    make.add_argument("--namespace", required=True)
    make.add_argument("--ca", metavar="SECRET", help="the CA: ca.crt, ca.key; without it no certificates are made")
    make.add_argument("--control", metavar="SECRET", help="what the daemon shows to the relay: key")
    make.add_argument(
        "--leaf", action="append", default=[], metavar="SECRET=HOST,HOST", help="tls.crt, tls.key, ca.crt"
    )
    make.add_argument("--config-map", default="", help="where the CA's certificate is published")
    make.add_argument("--publish", action="append", default=[], dest="readers", metavar="NAMESPACE")
    make.set_defaults(command=make_command)
    publish = commands.add_parser("publish", help="write the CA into ConfigMaps, for clusters' pods")
    publish.add_argument("--ca", type=Path, required=True, metavar="FILE")
    publish.add_argument("--config-map", required=True)
    publish.add_argument("--namespace", action="append", required=True, dest="namespaces")
    publish.set_defaults(command=publish_command)
    for command in (make, publish):
        command.add_argument("--server", default="https://kubernetes.default.svc", help="Kubernetes' API")
        command.add_argument(
            "--account", type=Path, default=Path("/var/run/secrets/kubernetes.io/serviceaccount"), metavar="FOLDER"
        )


def make_command(args: argparse.Namespace) -> int:
    """Make what is missing or old, and say what was done. Returns 0; raises Refused, Permanent and Transient."""
    from flowgroup.edge.certs import process
    from flowgroup.edge.certs.keeping import Wanted

    leaves = {name: hosts.split(",") for name, hosts in (_pair(text, "--leaf") for text in args.leaf)}
    wanted = Wanted(ca=args.ca, control=args.control, leaves=leaves)
    access = process.Access(args.server, args.account)
    for line in asyncio.run(
        process.make(access, args.namespace, wanted, process.Readers(args.config_map, args.readers))
    ):
        print(line)
    return 0


def publish_command(args: argparse.Namespace) -> int:
    """Write the CA into every namespace's ConfigMap. Returns 0; raises Refused, Permanent and Transient."""
    from flowgroup.edge.certs import process

    try:
        ca = args.ca.read_text()
    except OSError as exc:
        raise Refused(f"cannot read the CA's certificate {args.ca} (--ca): {exc}") from exc
    access = process.Access(args.server, args.account)
    for line in asyncio.run(process.publish(access, process.Readers(args.config_map, args.namespaces), ca)):
        print(line)
    return 0


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise Refused(f"{flag} {text!r} is not NAME=VALUE")
    return name, value
