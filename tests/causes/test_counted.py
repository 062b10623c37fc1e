"""Runs that came to nothing are counted by the code of their cause."""

import pytest

from flowgroup.daemon.again import Again
from flowgroup.daemon.tell import Teller
from flowgroup.metrics import DAEMON
from flowgroup.model.causes import ROWS, said
from flowgroup.model.ids import AttemptId, RunId
from flowgroup.model.runs import Crashed, GivenBack, Lost, Outcome, Reported


class Elsewhere:
    """An API that has given the run to somebody else meanwhile: there is nothing to say."""

    async def last_claim(self, run_id: RunId) -> AttemptId:
        return AttemptId("another")


def counted(cause: str) -> float:
    return DAEMON.get_sample_value("flowgroup_runs_undone_total", {"cause": cause}) or 0.0


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (Crashed(said("pod-deleted", who="driver")), "pod-deleted"),
        (
            Crashed(f"Cluster c ended before it was ready: {said('start-script', who='driver', where='')}"),
            "start-script",
        ),
        (GivenBack(said("cluster-timeout", timeout_s=60.0, said=said("no-workers", name="c"))), "no-workers"),
        (Crashed("nobody knows"), "other"),
        (Lost(said("driver-restarted", name="c")), "driver-restarted"),
    ],
)
async def test_a_run_that_crashed_or_was_given_back_counts_once(outcome: Outcome, cause: str) -> None:
    before = counted(cause)
    await Teller(Elsewhere(), Again(Elsewhere(), 3)).tell(RunId("r"), AttemptId("a"), outcome)  # type: ignore[arg-type]
    assert counted(cause) == before + 1


async def test_one_that_told_its_end_itself_does_not() -> None:
    before = {row.code: counted(row.code) for row in ROWS}
    await Teller(Elsewhere(), Again(Elsewhere(), 3)).tell(RunId("r"), AttemptId("a"), Reported())  # type: ignore[arg-type]
    assert {row.code: counted(row.code) for row in ROWS} == before
