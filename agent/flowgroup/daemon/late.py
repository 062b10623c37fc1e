"""
Runs that come too late to be wanted. Pure.

In: a due run and how late it may start. Out: Skipped, or None. It is judged by the time that it was scheduled for at first:
waiting for a slot, for room or for the infrastructure moves the time of the next try, and is what makes a run late. A run
that has begun before, or that somebody or its flow has asked for anew, is wanted and is never late.
"""

from datetime import datetime

from flowgroup.model.runs import DueRun, Skipped
from flowgroup.model.states import AWAITING_INFRASTRUCTURE

_STILL_THE_FIRST = ("Scheduled", "Late", "AwaitingConcurrencySlot", AWAITING_INFRASTRUCTURE)


def too_late(due: DueRun, skip_if_late_s: float | None, now: datetime) -> Skipped | None:
    """`now` has a time zone."""
    if skip_if_late_s is None or due.run_count or due.state_name not in _STILL_THE_FIRST:
        return None
    late_s = (now - (due.scheduled_for or due.due_at)).total_seconds()
    if late_s <= skip_if_late_s:
        return None
    return Skipped(
        f"Skipped: it could start only {late_s:.0f} s after its scheduled time, and its deployment wants no run that is more "
        f"than {skip_if_late_s:g} s late (skip_if_late_s)."
    )
