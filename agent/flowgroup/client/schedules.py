"""When a deployment's runs start: from what an author writes to what Prefect keeps."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.schedules import Schedule
from prefect.types._datetime import now
from pydantic import ValidationError

from flowgroup.errors import Refused
from flowgroup.model.bundle import canonical_json

_Any = CronSchedule | IntervalSchedule | RRuleSchedule
# Prefect gives a schedule without an anchor the moment at which it was made.
_JUST_NOW = timedelta(minutes=1)
_REMEDY = "give a cron string such as '0 6 * * *', seconds, a timedelta, one of Prefect's schedules, or a list of them"


def wanted(schedule: Any) -> list[DeploymentScheduleCreate] | None:
    """
    An author's schedule as Prefect takes it; None if nothing was said.

    A cron string, seconds, a timedelta, one of Prefect's schedule objects, or a list of those. Raises Refused.
    """
    if schedule is None:
        return None
    if isinstance(schedule, list | tuple):
        return [_one(item) for item in schedule]
    return [_one(schedule)]


def kept(existing: Sequence[DeploymentSchedule]) -> list[DeploymentScheduleCreate]:
    """What a deployment has, as it is sent to stay."""
    return [
        DeploymentScheduleCreate(
            schedule=item.schedule,
            active=item.active,
            parameters=item.parameters,
            slug=item.slug,
            max_scheduled_runs=item.max_scheduled_runs,
        )
        for item in existing
    ]


def settled(
    wishes: Sequence[DeploymentScheduleCreate], existing: Sequence[DeploymentSchedule]
) -> list[DeploymentScheduleCreate]:
    """
    The wishes, with what was not said taken from the deployment as it is.

    That is the anchor of an interval, so that deploying again does not shift it, and the switch by which an operator
    stopped a schedule.
    """
    return [_settled(wish, existing) for wish in wishes]


def same(one: Sequence[DeploymentScheduleCreate], other: Sequence[DeploymentScheduleCreate]) -> bool:
    """Whether two lists of schedules mean the same, in whatever order."""
    return sorted(map(_text, one)) == sorted(map(_text, other))


def _one(item: Any) -> DeploymentScheduleCreate:
    try:
        return _read(item)
    except (ValidationError, ValueError, TypeError) as exc:
        told = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else str(exc)
        raise Refused(f"schedule={item!r} is wrong: {told}; {_REMEDY}") from exc


def _read(item: Any) -> DeploymentScheduleCreate:
    if isinstance(item, DeploymentScheduleCreate):
        return item
    if isinstance(item, Schedule):
        return DeploymentScheduleCreate.from_schedule(item)
    if isinstance(item, dict):
        return DeploymentScheduleCreate.model_validate(item)
    return DeploymentScheduleCreate(schedule=_times(item))


def _times(item: Any) -> _Any:
    if isinstance(item, CronSchedule | IntervalSchedule | RRuleSchedule):
        return item
    if isinstance(item, str):
        return CronSchedule(cron=item)
    if isinstance(item, int | float) and not isinstance(item, bool):
        item = timedelta(seconds=item)
    if isinstance(item, timedelta):
        return IntervalSchedule(interval=item)
    raise TypeError(f"a {type(item).__name__} is not a schedule")


def _settled(wish: DeploymentScheduleCreate, existing: Sequence[DeploymentSchedule]) -> DeploymentScheduleCreate:
    wishes = [wish]
    for item in existing:
        if isinstance(wish.schedule, IntervalSchedule) and isinstance(item.schedule, IntervalSchedule):
            wishes.append(_anchored(wish, wish.schedule, item.schedule))
    for there in kept(existing):
        for candidate in wishes:
            if _text(candidate.model_copy(update={"active": there.active})) == _text(there):
                return candidate.model_copy(update={"active": there.active and wish.active})
    return wish


def _anchored(
    wish: DeploymentScheduleCreate, mine: IntervalSchedule, there: IntervalSchedule
) -> DeploymentScheduleCreate:
    said = now("UTC") - mine.anchor_date > _JUST_NOW
    if said:
        return wish
    return wish.model_copy(update={"schedule": mine.model_copy(update={"anchor_date": there.anchor_date})})


def _text(item: DeploymentScheduleCreate) -> str:
    return canonical_json(item.model_dump(mode="json", exclude={"replaces"}))
