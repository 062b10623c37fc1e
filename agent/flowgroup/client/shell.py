"""`flowgroup deploy` and `flowgroup keys new`: what the command line gives, as calls. Nothing heavy is imported early."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowgroup import signing
from flowgroup.client.cluster import Cluster
from flowgroup.errors import Refused

if TYPE_CHECKING:
    from flowgroup.client.deploy import Deployed

_CLUSTER = {
    "workers": int,
    "workers_min": int,
    "workers_max": int,
    "worker_processes": int,
    "worker_threads": int,
    "worker_memory": str,
    "worker_size": str,
    "scheduler_size": str,
    "driver_size": str,
    "mode": str,
    "idle_timeout_s": float,
}
_PLAIN = ("name", "pool", "queue", "image", "store", "description", "signing_key", "concurrency_limit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flowgroup deploy`."""
    add = parser.add_argument
    add("flow", metavar="FILE.py:FLOW", help="where the flow is; :FLOW may be left out if there is only one")
    add("--name", required=True, help="the deployment's name")
    add("--pool", required=True, help="the work pool; `flowgroup start --pool NAME` makes one")
    add("--queue", help="the pool's work queue")
    cluster = parser.add_argument_group("the flow's Dask cluster (without any of these: none)")
    for name, kind in _CLUSTER.items():
        cluster.add_argument(f"--{name.replace('_', '-')}", type=kind)
    cluster.add_argument("--worker-spot", action="store_const", const=True, help="workers on spot nodes")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--cron", help="for example '0 6 * * *'")
    when.add_argument("--interval", type=float, metavar="SECONDS")
    when.add_argument("--no-schedule", action="store_true", help="remove what schedules there are")
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="JSON, or a string")
    add("--env", action="append", default=[], metavar="NAME=VALUE")
    add("--tag", action="append", default=[], metavar="TAG")
    add("--include", action="append", default=[], metavar="PATTERN", help="more files beside the flow's")
    add("--image", help="what runs on Kubernetes start in, stored with the digest that its registry says")
    add("--no-resolve-image", action="store_false", dest="resolve_image", help="store --image as it is")
    add("--start-script", type=Path, metavar="FILE", help="run by bash before the cluster's first run")
    add("--store", help="s3://, gs://, az:// or file:// (default: FLOWGROUP_STORE)")
    add("--signing-key", type=Path, metavar="FILE", help="default: FLOWGROUP_SIGNING_KEY")
    add("--concurrency-limit", type=int)
    add("--description")
    add("--paused", action=argparse.BooleanOptionalAction)
    add("--json", action="store_true", help="print what was done as JSON")


def add_keys_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands below `flowgroup keys`."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a pair of keys: one signs flows, the other verifies them")
    new.add_argument("--folder", type=Path, default=Path(), help="where to write (default: here)")
    new.add_argument("--name", default="flowgroup", help="NAME.key and NAME.pub")
    new.set_defaults(command=keys_new)


def deploy_command(args: argparse.Namespace) -> int:
    """Deploy, and print what was done. Returns the exit status; raises Refused and Transient."""
    from flowgroup.client.deploy import deploy
    from flowgroup.client.load import load_flow

    done = deploy(
        load_flow(args.flow),
        **{name: getattr(args, name) for name in _PLAIN},
        cluster=_cluster(args),
        schedule=_schedule(args),
        parameters=dict(_parameter(text) for text in args.param),
        env=dict(_pair(text, "--env") for text in args.env),
        tags=args.tag,
        include=args.include,
        start_script=_text(args.start_script),
        paused=args.paused,
        resolve_image=args.resolve_image,
    )
    print(json.dumps(asdict(done), default=str) if args.json else _told(done))
    return 0


def keys_new(args: argparse.Namespace) -> int:
    """Make a pair of keys, and say what to do with them. Returns the exit status; raises Refused."""
    pair = signing.new_pair(args.folder, args.name)
    print(f"private key  {pair.private}   FLOWGROUP_SIGNING_KEY={pair.private} flowgroup deploy …")
    print(f"public key   {pair.public}   FLOWGROUP_PUBLIC_KEYS={pair.public} flowgroup start …")
    print(f"key id       {pair.key_id}")
    return 0


def _cluster(args: argparse.Namespace) -> Cluster | None:
    said = {name: getattr(args, name) for name in (*_CLUSTER, "worker_spot")}
    given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    return Cluster(**given) if given else None


def _schedule(args: argparse.Namespace) -> Any:
    if args.no_schedule:
        return []
    return args.cron if args.cron is not None else args.interval


def _parameter(text: str) -> tuple[str, Any]:
    name, value = _pair(text, "--param")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise Refused(f"{flag} {text!r} is not NAME=VALUE")
    return name, value


def _text(file: Path | None) -> str | None:
    try:
        return file.read_text() if file is not None else None
    except (OSError, UnicodeDecodeError) as exc:
        raise Refused(f"cannot read the start script {file}: {exc}") from exc


def _told(done: "Deployed") -> str:
    what = "deployed" if done.changed else "unchanged"
    lines = [f"{what}  {done.name}  version {done.version[:12]}", f"bundle    {done.address}"]
    if done.image:
        lines.append(f"image     {done.image}")
    lines.append(f"signed    by key {done.key_id}" if done.key_id else "signed    no")
    if done.url:
        lines.append(f"in the UI {done.url}")
    lines.append(f"run it    prefect deployment run '{done.name}'")
    return "\n".join(lines)
