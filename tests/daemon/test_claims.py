"""Deployments at their concurrency limit: their runs are held back, and nobody else's are. Time is virtual."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from flowgroup.daemon.claims import Claims
from flowgroup.model.ids import AttemptId, DeploymentId, FlowId, RunId
from flowgroup.model.runs import ClaimedRun, DueRun, NotClaimed

pytestmark = pytest.mark.looptime
ATTEMPT = AttemptId("a")


def run(name: str, deployment: str | None = "d") -> DueRun:
    return DueRun(
        RunId(name), name, FlowId("f"), DeploymentId(deployment) if deployment else None, datetime.now(UTC), {}
    )


@dataclass
class Server:
    """Gives `free` runs of deployment `d`, and all others."""

    free: int = 0
    proposed: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def claim(self, due: DueRun, attempt: AttemptId) -> ClaimedRun | NotClaimed:
        self.proposed.append(due.id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(1)
        self.at_once -= 1
        if due.deployment_id == "d" and self.free <= 0:
            return NotClaimed("limit", 30.0, is_limit=True)
        self.free -= due.deployment_id == "d"
        return ClaimedRun(due, attempt)


async def test_of_300_runs_few_are_proposed_and_another_deployments_is_claimed_at_once() -> None:
    server = Server()
    claims = Claims(server)
    blocked = [asyncio.create_task(claims.claim(run(str(number)), ATTEMPT)) for number in range(300)]
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    assert isinstance(await claims.claim(run("other", "another"), ATTEMPT), ClaimedRun)
    assert asyncio.get_running_loop().time() - began <= 5
    answers = await asyncio.gather(*blocked)
    assert all(isinstance(answer, NotClaimed) for answer in answers)
    assert len(server.proposed) <= 17
    assert server.most_at_once <= 16


async def test_they_are_proposed_again_one_at_a_time_and_not_before_the_servers_delay() -> None:
    server = Server()
    claims = Claims(server)
    await claims.claim(run("first"), ATTEMPT)
    assert claims.is_held(run("second"))
    await asyncio.sleep(29)
    assert claims.is_held(run("second"))
    await asyncio.sleep(1.1)
    server.proposed.clear()
    await asyncio.gather(*(claims.claim(run(str(number)), ATTEMPT) for number in range(50)))
    assert len(server.proposed) == 1


async def test_the_end_of_one_lets_the_next_in_at_once_and_rings() -> None:
    rings: list[float] = []
    server = Server()
    claims = Claims(server, on_open=lambda: rings.append(0.0))
    await claims.claim(run("first"), ATTEMPT)
    claims.ended(run("theirs", "another"))
    assert claims.is_held(run("second"))
    assert not rings
    claims.ended(run("zero"))
    assert rings
    assert not claims.is_held(run("second"))
    server.free = 2
    for name in ("second", "third"):
        assert isinstance(await claims.claim(run(name), ATTEMPT), ClaimedRun)
    assert isinstance(await claims.claim(run("fourth"), ATTEMPT), NotClaimed)
    assert claims.is_held(run("fifth"))


async def test_a_run_without_a_deployment_is_never_held() -> None:
    server = Server()
    claims = Claims(server)
    await claims.claim(run("first"), ATTEMPT)
    assert not claims.is_held(run("x", None))
    assert isinstance(await claims.claim(run("x", None), ATTEMPT), ClaimedRun)
