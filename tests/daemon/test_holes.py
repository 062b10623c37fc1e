"""What once ended a daemon, or harmed a run, because of another's trouble."""

import uuid
from pathlib import Path

import pytest

from flowgroup.errors import Transient
from flowgroup.model.ids import ClusterName, new_attempt
from flowgroup.model.runs import SentRun
from tests.daemon.test_journey import due, nothing_is_kept, one_run
from tests.daemon.test_main import machine
from tests.fakes.backend import FakeBackend
from tests.fakes.world import OWNER, line


@pytest.mark.looptime
async def test_a_run_of_a_former_daemon_that_cannot_be_carried_on_harms_no_other() -> None:
    world = one_run()
    world.fail_at, world.trouble = "watched", ZeroDivisionError("division by zero")
    async with line(world) as at:
        run = await due(at)
        attempt = new_attempt(OWNER, uuid.uuid4())
        await at.api.claim(run, attempt)
        world.fake.put_state(run.id, "RUNNING")
        await at.journeys.resume(SentRun(run.id, attempt, ClusterName("c")))
        assert world.fake.states(run.id)[-1] == "CRASHED"
        assert "ZeroDivisionError" in world.fake.message(run.id)
        nothing_is_kept(at)


async def test_a_backend_that_does_not_answer_at_start_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with machine(tmp_path) as at:
        at.backend = FakeBackend(tmp_path / "pool" / "daemon.sock", at.engine, relay_socket=tmp_path / "relay.sock")
        at.backend.fail["find"] = Transient("the API server is away")
        await at.start()
        assert "clusters_not_found_yet" in capsys.readouterr().out
        run = at.fake.add_run(at.fake.add_deployment())
        await at.ends(run, "COMPLETED")
