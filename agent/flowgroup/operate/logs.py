"""`flowgroup logs`: of a run, as Prefect's API has them, or of a cluster's processes."""

import argparse
import asyncio
import uuid
from datetime import datetime
from typing import Any

from flowgroup.edge import operating
from flowgroup.edge.wire import Wire, connected
from flowgroup.errors import Permanent
from flowgroup.operate.place import Place, place
from flowgroup.operate.tell import as_json
from flowgroup.settings import Settings

Json = dict[str, Any]
_PAGE = 200
_FOLLOW_S = 1.0
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR", 50: "FATAL"}
_FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_FILES = {"driver": "driver.log", "scheduler": "scheduler.log", "worker": "workers.log"}


def command(args: argparse.Namespace) -> int:
    """A run by its id or name, else a cluster by its name. Returns the exit status."""
    if args.cluster:
        return asyncio.run(_of_cluster(place(args), args))
    return asyncio.run(_of_run(Settings.read(), args))


async def _of_run(settings: Settings, args: argparse.Namespace) -> int:
    async with connected(settings.prefect) as wire:
        run = await _found(wire, args.target)
        seen = 0
        while True:
            is_over = not args.follow or (await _state(wire, run)) in _FINAL  # asked first: then nothing comes after
            while page := await _page(wire, run, seen):
                seen += len(page)
                for entry in page:
                    _print(entry, args.json)
            if is_over:
                return 0
            await asyncio.sleep(_FOLLOW_S)


async def _found(wire: Wire, target: str) -> str:
    """The run's id. Raises Permanent when no run has that name, or several have it."""
    try:
        return str(uuid.UUID(target))
    except ValueError:
        body = {"flow_runs": {"name": {"any_": [target]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 2}
        runs = await wire.call("POST", "/flow_runs/filter", body)
    if not runs:
        raise Permanent(f"no flow run is named {target!r}; for a cluster's logs say: flowgroup logs --cluster {target}")
    if len(runs) > 1:
        raise Permanent(f"several flow runs are named {target!r}: say the id, such as {runs[0]['id']} (the latest)")
    return str(runs[0]["id"])


async def _state(wire: Wire, run: str) -> str:
    return str((await wire.call("GET", f"/flow_runs/{run}"))["state_type"])


async def _page(wire: Wire, run: str, offset: int) -> list[Json]:
    wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": _PAGE, "offset": offset}
    page: list[Json] = await wire.call("POST", "/logs/filter", wanted)
    return page


def _print(entry: Json, is_json: bool) -> None:
    if is_json:
        as_json({name: entry.get(name) for name in ("timestamp", "level", "name", "message")})
        return
    at = datetime.fromisoformat(entry["timestamp"]).strftime("%H:%M:%S.%f")[:-3]
    print(f"{at} {_LEVELS.get(entry['level'], entry['level']):5} {entry['message']}", flush=True)


async def _of_cluster(where: Place, args: argparse.Namespace) -> int:
    found = await _said(where, args)
    if args.json:
        as_json([{"process": name, "lines": lines} for name, lines in found])
        return 0
    for name, lines in found:
        print("\n".join([f"==> {name} <==", *lines, ""]))
    return 0


async def _said(where: Place, args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    if where.is_on_kubernetes:
        from flowgroup.edge.kubernetes.operating import logs

        async with where.kubernetes() as client:
            return await logs(client, where.pool, args.target, args.role, args.lines)
    folder = where.folder / "clusters" / args.target
    if not folder.is_dir():
        raise Permanent(f"there is no cluster {args.target!r}; `flowgroup cluster list` names those that there are")
    roles = [args.role] if args.role else list(_FILES)
    files = [folder / _FILES[role] for role in roles]
    return [(file.name, operating.tail(file, args.lines)) for file in files if file.exists()]
