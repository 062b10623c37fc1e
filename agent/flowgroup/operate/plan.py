"""
`flowgroup plan`: which runs come, on which clusters, and how much there is at most. Nothing is claimed, made or changed.

The runs are those that Prefect has scheduled; it does so at least an hour and three runs ahead of each schedule, so that of a
schedule that comes more often the rest is not known yet: `known_until` says so.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flowgroup.daemon.placement import Policy
from flowgroup.daemon.plan import planned
from flowgroup.edge.prefect import PAGE, Prefect
from flowgroup.edge.shapes import ScheduledRun, many
from flowgroup.edge.wire import Wire, connected
from flowgroup.errors import FlowgroupError, Permanent
from flowgroup.model.ids import ClusterName
from flowgroup.model.runs import DueRun
from flowgroup.model.spec import ClusterSpec
from flowgroup.operate.forecast import Coming, Forecast, Stay, forecast, peak
from flowgroup.operate.place import Place, place
from flowgroup.operate.placing import policy_of, takes_of
from flowgroup.operate.tell import as_json, table

Json = dict[str, Any]
_PAGES = 25
_LATEST = 10
_UNKNOWN_S = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A run that cannot be placed: what its state will say."""

    run: str
    name: str
    due_at: datetime
    reason: str


def command(args: argparse.Namespace) -> int:
    """Returns the exit status: 1 if a run that comes cannot be placed."""
    told = asyncio.run(_told(place(args), timedelta(hours=args.hours)))
    if args.json:
        as_json(told)
    else:
        print("\n".join(_lines(told)))
    return 1 if told["refused"] else 0


async def _told(where: Place, ahead: timedelta) -> Json:
    now = datetime.now(UTC)
    daemon = where.settings.daemon
    async with connected(where.settings.prefect) as wire:
        api = Prefect(wire, where.pool)
        due = await _due(wire, where.pool, now + ahead)
        coming, refused = await _placed(api, wire, due, policy_of(where))
        known_until = await _known_until(wire, where.pool, due, now + ahead)
    there, is_seen = await _there(where, now)
    seen = forecast(coming, there, now, daemon.prewarm_s)
    return {
        "pool": where.pool,
        "from": now.isoformat(),
        "until": (now + ahead).isoformat(),
        "is_daemon_seen": is_seen,
        "runs": [_run(one, seen) for one in coming],
        "refused": [asdict(one) for one in refused],
        "clusters": [_stay(one) for one in seen.stays],
        **_peaks(seen, where),
        "known_until": known_until,
    }


async def _due(wire: Wire, pool: str, before: datetime) -> list[DueRun]:
    """Asked so that nobody takes it for a poll of a worker's."""
    wanted = {
        "flow_runs": {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "next_scheduled_start_time": {"before_": before.isoformat()},
        },
        "work_pools": {"name": {"any_": [pool]}},
        "sort": "NEXT_SCHEDULED_START_TIME_ASC",
        "limit": PAGE,
    }
    found: list[DueRun] = []
    for number in range(_PAGES):
        page = await wire.call("POST", "/flow_runs/filter", {**wanted, "offset": number * PAGE})
        found += [item.due() for item in many(ScheduledRun, [{"flow_run": run} for run in page], "scheduled runs")]
        if len(page) < PAGE:
            return found
    raise Permanent(f"more than {_PAGES * PAGE} runs are scheduled until {before}: look at fewer --hours")


async def _placed(
    api: Prefect, wire: Wire, due: Sequence[DueRun], policy: Policy
) -> tuple[list[Coming], list[Refusal]]:
    """By the daemon's own code; with how long runs of each deployment took lately."""
    coming, refused, lasts = list[Coming](), list[Refusal](), dict[str | None, float]()
    for run in sorted(due, key=lambda one: one.due_at):
        try:
            plan = await planned(api, run, policy)
        except Permanent as exc:  # refused, or its deployment is gone
            refused.append(Refusal(run.id, run.name, run.due_at, str(exc)))
            continue
        if run.deployment_id not in lasts:
            lasts[run.deployment_id] = await _lasts_s(wire, run.deployment_id)
        assert plan.deployment is not None
        name = f"{plan.deployment.flow_name}/{plan.deployment.name}"
        span = (lasts[run.deployment_id], plan.idle_timeout_s)
        coming.append(Coming(run.id, run.name, name, run.due_at, plan.spec, *span))
    return coming, refused


async def _lasts_s(wire: Wire, deployment: str | None) -> float:
    """The mean of the latest runs that completed; a minute if none has."""
    wanted = {
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}, "deployment_id": {"any_": [deployment]}},
        "sort": "END_TIME_DESC",
        "limit": _LATEST,
    }
    took = [float(run["total_run_time"]) for run in await wire.call("POST", "/flow_runs/filter", wanted)]
    return sum(took) / len(took) if took else _UNKNOWN_S


async def _known_until(wire: Wire, pool: str, due: Sequence[DueRun], until: datetime) -> Json:
    """Of deployments with an active schedule: the last run that Prefect has of each, where more may come before the end."""
    wanted = {"work_pools": {"name": {"any_": [pool]}}, "limit": PAGE}
    last: Json = {}
    for deployment in await wire.call("POST", "/deployments/filter", wanted):
        is_active = not deployment.get("paused") and any(one.get("active") for one in deployment.get("schedules") or ())
        runs = [run.due_at for run in due if run.deployment_id == deployment["id"]]
        if is_active and runs and len(runs) > 1 and max(runs) + (max(runs) - sorted(runs)[-2]) < until:
            last[str(deployment["name"])] = max(runs).isoformat()
    return last


async def _there(where: Place, now: datetime) -> tuple[dict[ClusterName, tuple[ClusterSpec, datetime]], bool]:
    """The clusters that exist, as the daemon says, and whether it could be asked."""
    try:
        clusters = (await where.standing())["clusters"]
    except FlowgroupError:
        return {}, False
    return {one["name"]: (ClusterSpec.model_validate(one["spec"]), _goes_at(one, now)) for one in clusters}, True


def _goes_at(cluster: Json, now: datetime) -> datetime:
    return now + timedelta(seconds=max(0.0, cluster["idle_timeout_s"] - cluster["idle_s"]))


def _run(coming: Coming, seen: Forecast) -> Json:
    return {
        "run": coming.run,
        "name": coming.name,
        "deployment": coming.deployment,
        "due_at": coming.due_at.isoformat(),
        "cluster": coming.spec.name,
        "how": seen.how[coming.run],
        "lasts_s": round(coming.lasts_s, 1),
    }


def _stay(stay: Stay) -> Json:
    return {"cluster": stay.name, "from": stay.begin.isoformat(), "until": stay.end.isoformat()}


def _peaks(seen: Forecast, where: Place) -> Json:
    """By what the daemon's caps count, too."""
    all_take = takes_of(where)
    each = [all_take(stay.spec) for stay in seen.stays]
    most = {
        "pods": [takes.pods for takes in each],
        "gpus": [round(takes.gpu) for takes in each],
        "clusters": [takes.clusters for takes in each],
    }
    return {f"peak_{name}": asdict(peak(seen.stays, amounts)) for name, amounts in most.items()}


def _lines(told: Json) -> list[str]:
    rows = [[run["due_at"][:19], run["deployment"], run["name"], run["how"], run["cluster"]] for run in told["runs"]]
    lines = table(["DUE (UTC)", "DEPLOYMENT", "RUN", "CLUSTER IS", "CLUSTER"], rows) if rows else ["no runs come"]
    lines += [""] + [
        f"at most {told[f'peak_{name}']['most']} {what} at once" + _since(told[f"peak_{name}"]["at"])
        for name, what in (("clusters", "clusters"), ("pods", "pods or processes"), ("gpus", "GPUs"))
    ]
    lines += [f"CANNOT BE PLACED: {one['name']} ({one['due_at']}): {one['reason']}" for one in told["refused"]]
    lines += [f"{name}: Prefect has no runs of it after {at} yet" for name, at in told["known_until"].items()]
    return (
        lines
        if told["is_daemon_seen"]
        else [*lines, "the daemon was not to be asked: clusters that exist are not counted"]
    )


def _since(at: datetime | None) -> str:
    return f", from {at:%Y-%m-%d %H:%M:%S} on" if at else ""
