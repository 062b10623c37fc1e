"""`flowgroup status` and `flowgroup cluster list|show|reset|scale`."""

import argparse
import asyncio
import time
from typing import Any

from flowgroup.edge import operating
from flowgroup.errors import Refused
from flowgroup.model.clusters import Ask
from flowgroup.operate.place import Place, one_of, place
from flowgroup.operate.tell import as_json, table

Json = dict[str, Any]
_WATCH_S = 2.0
_CLEAR = "\x1b[H\x1b[2J"
_SCALE_S = 600.0
_GONE_LOOK_S = 1.0


def status(args: argparse.Namespace) -> int:
    """How everything stands, once or again and again. Returns the exit status."""
    where = place(args)
    while True:
        told = asyncio.run(where.standing())
        if args.json:
            as_json(told)
        else:
            print((_CLEAR if args.watch else "") + "\n".join(_lines(told)), flush=True)
        if not args.watch:
            return 0
        time.sleep(_WATCH_S)


def list_(args: argparse.Namespace) -> int:
    told = asyncio.run(place(args).standing())["clusters"]
    if args.json:
        as_json(told)
    else:
        print("\n".join(_clusters(told)))
    return 0


def show(args: argparse.Namespace) -> int:
    """One cluster with its groups and its runs."""
    standing = asyncio.run(place(args).standing())
    found = one_of(standing, args.cluster)
    runs = [run for run in standing["runs"] if run["cluster"] == found["name"]]
    if args.json:
        as_json({**found, "runs": runs})
        return 0
    for name in ("name", "flow", "flow_id", "isolation", "mode", "image", "relay", "trouble", "why"):
        if found[name]:
            print(f"{name:10} {found[name]}")
    print(f"{'state':10} {_state(found)}")
    print("\n".join(["", *_groups([found]), "", *_runs(runs)]))
    return 0


def reset(args: argparse.Namespace) -> int:
    """Have a cluster drained and removed, so that the next run gets a new one."""
    return asyncio.run(_reset(place(args), args))


async def _reset(where: Place, args: argparse.Namespace) -> int:
    found = one_of(await where.standing(), args.cluster)
    await _ask(where, found["name"], Ask(reset=True))
    if args.wait:
        await _gone(where, found["name"])
    then = "is gone" if args.wait else f"is reset: {len(found['leases'])} runs end first"
    if args.json:
        as_json({"cluster": found["name"], "asked": "reset", "runs": found["leases"], "waited": args.wait})
    else:
        print(f"{found['name']} {then}; the next run gets a new one")
    return 0


async def _gone(where: Place, name: str) -> None:
    """What was asked goes with the cluster that it is written on, also if another has its name by then."""
    while (await _asked(where, name)).reset:  # noqa: ASYNC110
        await asyncio.sleep(_GONE_LOOK_S)


def scale(args: argparse.Namespace) -> int:
    """Have so many workers in a group at once, within its numbers."""
    return asyncio.run(_scale(place(args), args))


async def _scale(where: Place, args: argparse.Namespace) -> int:
    found = one_of(await where.standing(), args.cluster)
    groups = {one["group"]: one for one in found["groups"]}
    if args.group not in groups:
        raise Refused(f"{found['name']} has no group {args.group!r}; there are: {', '.join(groups)}")
    group = groups[args.group]
    if group["least"] == group["most"]:
        raise Refused(
            f"the group {args.group!r} of {found['name']} has {group['most']} workers, always: deploy the flow with "
            "workers_max (or WorkerGroup(max=…)) for a group that can be scaled"
        )
    if not group["least"] <= args.workers <= group["most"]:
        raise Refused(
            f"--workers {args.workers}: the group {args.group!r} has {group['least']} to {group['most']} workers, as it was "
            "deployed. Choose a number between them, or deploy with others."
        )
    before = await _asked(where, found["name"])
    asked = Ask(reset=before.reset, scale={**before.scale, args.group: args.workers}, until=time.time() + _SCALE_S)
    await _ask(where, found["name"], asked)
    if args.json:
        as_json({"cluster": found["name"], "group": args.group, "there": group["there"], "asked": args.workers})
    else:
        print(
            f"{found['name']}: {args.workers} workers asked for in group {args.group!r}; {group['there'] or 0} are there"
        )
        if args.workers < (group["there"] or 0):
            print("none is ended for that: those without work go by themselves")
    return 0


async def _asked(where: Place, name: str) -> Ask:
    """Other groups' numbers stay, while they are not over."""
    if not where.is_on_kubernetes:
        found = operating.asked_before(where.folder / "clusters" / name)
    else:
        from flowgroup.edge.kubernetes.operating import asked_before

        async with where.kubernetes() as client:
            found = await asked_before(client, name)
    return found if time.time() < found.until else Ask(reset=found.reset)


async def _ask(where: Place, name: str, what: Ask) -> None:
    if not where.is_on_kubernetes:
        operating.ask(where.folder / "clusters" / name, what)
        return
    from flowgroup.edge.kubernetes.operating import ask

    async with where.kubernetes() as client:
        await ask(client, name, what)


def _lines(told: Json) -> list[str]:
    stream = "connected" if told["events"] else "not connected"
    slots = told["slots"]
    head = [
        f"pool {told['pool']}  backend {told['backend']}  worker {told['worker']}  version {told['version']}",
        f"slots {slots['held']} of {slots['total']}  last poll {told['last_poll_at'] or 'never'}  event stream {stream}",
    ]
    head += [f"STUCK: {', '.join(told['stuck'])}"] if told["stuck"] else []
    clusters = told["clusters"]
    return [*head, "", *_clusters(clusters), "", *_groups(clusters), "", *_runs(told["runs"])]


def _clusters(clusters: list[Json]) -> list[str]:
    if not clusters:
        return ["no clusters"]
    ordered = sorted(clusters, key=lambda one: (one["flow"], one["isolation"], one["name"]))
    rows = [[one["flow"], one["name"], one["mode"], _state(one), one["workers"], one["why"]] for one in ordered]
    return table(["FLOW GROUP", "CLUSTER (GENERATION)", "MODE", "STATE", "WORKERS", "WHY IT LIVES"], rows)


def _state(cluster: Json) -> str:
    if cluster["draining"]:
        return "draining"
    if cluster["trouble"]:
        return "in trouble"
    if not cluster["connected"]:
        return "without driver"
    return "ready" if cluster["ready"] else "starting"


def _groups(clusters: list[Json]) -> list[str]:
    rows = [
        [
            one["name"],
            group["group"],
            _or(group["there"]),
            group["wanted"],
            group["least"],
            group["most"],
            _or(group["asked"]),
        ]
        for one in clusters
        for group in one["groups"]
        if group["most"]
    ]
    return table(["CLUSTER", "GROUP OF WORKERS", "THERE", "WANTED", "MIN", "MAX", "ASKED"], rows) if rows else []


def _runs(runs: list[Json]) -> list[str]:
    rows = [[run["id"], run["phase"], _or(run["cluster"])] for run in runs]
    return table(["RUN", "PHASE", "CLUSTER"], rows) if rows else ["no runs under way"]


def _or(value: object) -> object:
    return "-" if value is None else value
