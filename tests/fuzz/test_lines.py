"""What daemon and drivers, children and workers say to each other, when it is not what they should say."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flowgroup.daemon.drivers import Drivers
from flowgroup.daemon.seals import Seals
from flowgroup.driver import levels, scheduler
from flowgroup.driver.brief import Brief
from flowgroup.driver.desk import _note
from flowgroup.driver.learned import Wish, names_in
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.model.ids import AttemptId, ClusterName, RunId
from flowgroup.model.orders import read_order, read_report
from tests.fuzz.mutating import fuzz, fuzz_async, spoilt, spoilt_bytes
from tests.fuzz.recorded import ATTEMPT, CONTROLS, HELLO, ORDER, RUN, STATUS

GROUPS = STATUS["groups"]
NOTE = {"phase": "running", "cause": "why", "reported": True, "cancelling": False, "imported": ["numpy", "pandas.core"]}


@pytest.mark.parametrize(
    ("parser", "said"),
    [
        (read_report, (HELLO, STATUS)),
        (read_order, (ORDER, *CONTROLS)),
        (levels._LEVELS.validate_json, (GROUPS,)),
        (Brief.model_validate_json, ({"order": ORDER, "env": {}, "lean": True, "scheduler": None},)),
    ],
)
def test_a_line_is_read_or_a_value_error(parser: Callable[[bytes], object], said: tuple[Any, ...]) -> None:
    for one in said:
        parser(json.dumps(one).encode())

    def check(random: Random) -> None:
        with contextlib.suppress(ValueError):
            parser(spoilt_bytes(random.choice(said), random))

    fuzz(check)


async def test_whatever_a_driver_reports_leaves_a_view_that_can_be_used() -> None:
    drivers, cluster = Drivers(), ClusterName("c")

    async def check(random: Random) -> None:
        view = drivers.view(cluster)
        with contextlib.suppress(ValueError):
            drivers._take(view, spoilt_bytes(STATUS, random))
        assert all(attempt.phase in ("starting", "running", "ended") for _, attempt in drivers.carried())
        drivers.has_reported(cluster)
        drivers.forget(cluster, AttemptId(ATTEMPT))

    await fuzz_async(check)


def test_a_seal_that_we_did_not_make_opens_nothing() -> None:
    seals, cluster = Seals("key"), ClusterName("c")
    good = seals.seal(OpenAttempt(AttemptId(ATTEMPT), RunId(RUN), "0" * 64, None, cluster))
    assert seals.opened(good, cluster)

    def check(random: Random) -> None:
        shown = spoilt({"seal": good, "more": [good]}, random)
        bad = shown.get("seal") if isinstance(shown, dict) else shown
        at = random.randrange(len(good))
        for seal in (bad, good[:at], good[:at] + "é" + good[at + 1 :], good[:at] + "\ud800" + good[at:]):
            if isinstance(seal, str) and seal != good:
                assert seals.opened(seal, cluster) is None

    fuzz(check)


def test_what_a_child_notes_is_what_it_may_note() -> None:
    def check(random: Random) -> None:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            noted = _note(spoilt_bytes(NOTE, random))
            assert noted.get("phase") in (None, "running", "refused")
            Wish().learn(names_in(noted.get("imported")))

    fuzz(check)


def test_where_the_scheduler_wrote_its_address_is_an_address_or_none(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"

    def check(random: Random) -> None:
        file.write_bytes(spoilt_bytes({"address": "tcp://127.0.0.1:8786", "id": "x"}, random))
        assert isinstance(scheduler._written(file), str | None)

    fuzz(check)


async def test_nonsense_on_the_levels_port_changes_nothing_but_is_asked_again() -> None:
    heard: list[Any] = []

    async def check(random: Random) -> None:
        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(spoilt_bytes(GROUPS, random) + b"\n")
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            with contextlib.suppress(OSError, ValueError, TimeoutError):  # `follow` dials again
                await levels._listen("127.0.0.1", server.sockets[0].getsockname()[1], heard.append)

    await fuzz_async(check, share=0.2)
