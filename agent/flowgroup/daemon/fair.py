"""
Which due runs go first: each flow in its turn. Pure.

In: runs as the API orders them (by the priority of their queues, then by time) and how many each flow has under way. Out: the
same runs, so that of those of one priority the flow with the fewest under way comes first, and of one flow the oldest.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count

from flowgroup.model.ids import FlowId
from flowgroup.model.runs import DueRun


def in_turns(runs: Sequence[DueRun], under_way: Mapping[FlowId, int]) -> list[DueRun]:
    """A flow's run stands behind as many others as the flow has, or would have, under way before it."""
    ahead: Counter[FlowId] = Counter(under_way)
    ordered: list[DueRun] = []
    for those in _of_one_priority(runs):
        ranks = []
        for run in those:
            ranks.append(ahead[run.flow_id])
            ahead[run.flow_id] += 1
        ordered += [run for _, _, run in sorted(zip(ranks, count(), those, strict=False), key=lambda one: one[:2])]
    return ordered


def _of_one_priority(runs: Sequence[DueRun]) -> list[Sequence[DueRun]]:
    """The API does not say a queue's priority: queues whose runs stand among each other's have the same."""
    last = {run.work_queue_id: number for number, run in enumerate(runs)}
    blocks, begins, ends = [], 0, -1
    for number, run in enumerate(runs):
        if number > ends and number > begins:
            blocks.append(runs[begins:number])
            begins = number
        ends = max(ends, last[run.work_queue_id])
    return [*blocks, runs[begins:]]
