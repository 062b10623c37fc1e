"""The spool's one thread: many who ask, few commits, and what becomes of them when the file cannot be written."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flowgroup import metrics
from flowgroup.errors import Transient
from flowgroup.relay.spool.disk import _COMMITS_A_CHECKPOINT, Disk
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.spool.writer import Writer
from tests.relay.spool.world import a_disk, batch, waiting


@asynccontextmanager
async def writing(folder: Path) -> AsyncIterator[tuple[Disk, Writer]]:
    disk = a_disk(folder)
    writer = Writer(disk)
    try:
        yield disk, writer
    finally:
        await writer.close()


def _commits() -> float:
    return metrics.RELAY.get_sample_value("flowgroup_relay_spool_commits_total") or 0.0


async def test_what_is_asked_for_together_is_committed_together_and_in_order(tmp_path: Path) -> None:
    async with writing(tmp_path) as (_, writer):
        before = _commits()
        await asyncio.gather(*(writer.do(lambda disk, n=n: disk.store(batch(n))) for n in range(1000)))
        assert await writer.do(waiting) == list(range(1000))
        assert _commits() - before < 200


async def test_a_job_that_has_no_room_fails_alone(tmp_path: Path) -> None:
    def refused(disk: Disk) -> None:
        raise Transient("no room")

    async with writing(tmp_path) as (_, writer):
        asked = [
            writer.do(lambda disk: disk.store(batch(1))),
            writer.do(refused),
            writer.do(lambda disk: disk.store(batch(2))),
        ]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in results] == [bool, Transient, bool]
        assert await writer.do(waiting) == [1, 2]


async def test_a_defect_costs_those_who_asked_and_nobody_after_them(tmp_path: Path) -> None:
    async with writing(tmp_path) as (_, writer):
        with pytest.raises(ZeroDivisionError):
            await writer.do(lambda disk: 1 // 0)
        assert await writer.do(lambda disk: disk.store(batch(1)))


async def test_pages_go_to_the_file_after_many_commits(tmp_path: Path) -> None:
    async with writing(tmp_path) as (disk, writer):
        file = disk.folder / "spool.db"
        empty = file.stat().st_size
        for number in range(_COMMITS_A_CHECKPOINT):
            assert file.stat().st_size == empty
            await writer.do(lambda disk, n=number: disk.store(batch(n, size=4000)))
        async with asyncio.timeout(10):
            while file.stat().st_size == empty:
                await writer.do(waiting)


async def test_nobody_waits_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, in_time = threading.Event(), []
    monkeypatch.setattr(Disk, "checkpoint", lambda _: in_time.append(told.wait(10)))
    async with writing(tmp_path) as (_, writer):
        assert await writer.do(lambda disk: disk.store(batch(1)))
        told.set()
    assert in_time[0]


async def test_a_checkpoint_that_fails_costs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Disk) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Disk, "checkpoint", fails)
    async with writing(tmp_path) as (_, writer):
        for number in range(3):
            assert await writer.do(lambda disk, n=number: disk.store(batch(n)))
        assert await writer.do(waiting) == [0, 1, 2]


async def test_a_full_disk_is_told_and_room_is_made(tmp_path: Path) -> None:
    async with writing(tmp_path) as (disk, writer):
        await writer.do(lambda disk: disk.store(batch(1)))
        await writer.do(lambda disk: disk._db.execute("PRAGMA max_page_count=1").fetchall() and None)
        with pytest.raises(Transient, match="full"):
            await writer.do(lambda disk: disk.store(batch(*range(2, 500), size=2000)))
        assert not (disk.folder / "ballast").exists()
        assert await writer.do(waiting) == [1]
        await writer.do(lambda disk: disk._db.execute("PRAGMA max_page_count=100000").fetchall() and None)
        assert await writer.do(lambda disk: disk.store(batch(2)))
        assert disk.waiting[Kind.LOGS].records == 2


async def test_a_file_that_breaks_while_it_is_used_is_put_aside_and_the_relay_goes_on(tmp_path: Path) -> None:
    async with writing(tmp_path) as (disk, writer):
        await writer.do(lambda disk: disk.store(batch(*range(5000), size=200)))
        await writer.do(lambda disk: disk._db.execute("PRAGMA shrink_memory").fetchall() and None)
        # As a disk that gives back other bytes than it was given.
        for name in ("spool.db", "spool.db-wal"):
            length = (disk.folder / name).stat().st_size
            with (disk.folder / name).open("r+b") as file:
                file.seek(4096)
                file.write(b"\xff" * max(0, length - 4096))
        with pytest.raises(Transient):
            for _ in range(100):
                await writer.do(lambda disk: disk.next(Kind.LOGS, most=10_000, most_bytes=1 << 30))
        assert await writer.do(lambda disk: disk.store(batch(7)))
        assert await writer.do(waiting) == [7]
        assert len(list(disk.folder.glob("corrupt-*-spool.db"))) == 1
