"""The spool's file: what it keeps through kills, truncations, a full disk and broken bytes, and what it drops."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from flowgroup.errors import Refused, Transient
from flowgroup.relay.spool.disk import Disk
from flowgroup.relay.spool.rows import Kind
from tests.relay.spool.world import MIB, a_disk, batch, waiting

_LOG_HEADER, _FRAME_HEADER, _FILE_HEADER = 32, 24, 100  # bytes


def stored(disk: Disk, *numbers: int, **more: object) -> bool:
    with disk.transaction():
        return disk.store(batch(*numbers, **more))  # type: ignore[arg-type]


def test_a_batch_that_comes_again_is_stored_once_also_after_a_restart(tmp_path: Path) -> None:
    disk = a_disk(tmp_path)
    assert stored(disk, 1, desk="d", number=1)
    assert not stored(disk, 1, desk="d", number=1)
    disk.close()
    disk = a_disk(tmp_path)
    assert not stored(disk, 1, desk="d", number=1)
    assert stored(disk, 2, desk="d", number=2)
    assert stored(disk, 3, desk="e", number=1)
    assert stored(disk, 4, desk="d", number=1, kind=Kind.EVENTS)
    assert (waiting(disk), waiting(disk, Kind.EVENTS)) == ([1, 2, 3], [4])
    disk.close()


def test_a_desk_that_was_silent_for_days_is_forgotten(tmp_path: Path) -> None:
    now = [1_000.0]
    disk = a_disk(tmp_path, clock=lambda: now[0])
    stored(disk, 1, desk="old", number=1)
    now[0] += 8 * 24 * 3600
    stored(disk, 2, desk="new", number=1)
    assert disk._db.execute("SELECT desk FROM desks").fetchall() == [("new",)]
    disk.close()


def test_a_second_relay_may_not_use_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowgroup.relay.spool.disk._LOCKED_S", 0.1)
    disk = a_disk(tmp_path)
    with pytest.raises(Refused, match="FLOWGROUP_RELAY_SPOOL"):
        a_disk(tmp_path)
    disk.close()


def writes_of(file: Path) -> list[int]:
    """
    Where each write to the file ends, with a byte less and one more: of the log its header and each frame's header and page,
    of the database its header and each page (https://www.sqlite.org/fileformat2.html).
    """
    length, whole = file.stat().st_size, file.read_bytes()
    if file.name.endswith("-wal"):
        page = int.from_bytes(whole[8:12])
        frames = range(_LOG_HEADER, length, _FRAME_HEADER + page)
        assert (length - _LOG_HEADER) % (_FRAME_HEADER + page) == 0
        ends = {0, *range(4, _LOG_HEADER, 4), *frames, *(start + _FRAME_HEADER for start in frames), length}
    else:
        page = int.from_bytes(whole[16:18])
        ends = {0, 16, _FILE_HEADER, *range(page, length, page), length}
    return sorted({at for end in ends for at in (end - 1, end, end + 1) if 0 <= at <= length})


@pytest.mark.parametrize("name", ["spool.db", "spool.db-wal"])
def test_wherever_a_file_is_cut_off_the_relay_starts_and_has_what_was_synced_before(tmp_path: Path, name: str) -> None:
    """
    Each write that a power loss may have kept from the log, or from the file, leaves a shorter one. What was committed in
    what is left is there, as a whole batch, and nothing after a batch that is not.
    """
    disk = a_disk(tmp_path)
    for number in range(0, 60, 3):
        stored(disk, number, number + 1, number + 2, size=400)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "spool", whole)  # as a kill leaves it
    disk.close()
    found: list[int] = []
    for cut in writes_of(whole / name):
        place = tmp_path / "cut" / "spool"
        shutil.copytree(whole, place)
        with (place / name).open("r+b") as file:
            file.truncate(cut)
        disk = a_disk(tmp_path / "cut")
        there = waiting(disk)
        assert there == list(range(len(there)))
        assert len(there) % 3 == 0
        assert stored(disk, 1000)
        assert waiting(disk)[-1] == 1000
        found.append(len(there))
        disk.close()
        shutil.rmtree(place)
    assert max(found) == 60
    if name == "spool.db-wal":
        assert found == sorted(found)
        assert len(set(found)) == 21  # every batch's end was somewhere


@pytest.mark.parametrize(
    "spoiled", [b"no database at all, and long enough to be one" * 50, b"SQLite format 3\0" + b"x" * 9000]
)
def test_a_broken_file_is_kept_aside_and_a_new_one_begun(tmp_path: Path, spoiled: bytes) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "spool.db").write_bytes(spoiled)
    disk = a_disk(tmp_path)
    assert stored(disk, 1)
    disk.close()
    kept = list((tmp_path / "spool").glob("corrupt-*-spool.db"))
    assert [one.read_bytes() for one in kept] == [spoiled]
    disk = a_disk(tmp_path)
    assert waiting(disk) == [1]
    disk.close()


def test_a_folder_that_cannot_be_is_refused_by_the_setting_s_name(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(Refused, match="FLOWGROUP_RELAY_SPOOL"):
        a_disk(tmp_path)


def test_beyond_the_bound_lines_of_the_lowest_level_go_first_and_the_oldest_of_them(tmp_path: Path) -> None:
    disk = a_disk(tmp_path, limit=MIB, reserve=MIB // 4)
    for number in range(0, 900, 3):
        stored(disk, number, level=10, size=1000)
        stored(disk, number + 1, level=20, size=1000)
        stored(disk, number + 2, level=40, size=1000)
    left = waiting(disk)
    assert disk.waiting[Kind.LOGS].bytes <= MIB * 3 // 4
    assert [number for number in left if number % 3 == 2] == list(range(2, 900, 3))  # no error is lost
    debug, info = [n for n in left if n % 3 == 0], [n for n in left if n % 3 == 1]
    assert debug == list(range(debug[0], 900, 3))  # the newest ones, as there was room again
    assert len(debug) < 30
    assert info == list(range(info[0], 900, 3))
    count, size = disk._db.execute("SELECT count(*), total(size) FROM logs").fetchone()
    assert (disk.waiting[Kind.LOGS].records, disk.waiting[Kind.LOGS].bytes) == (count, size)
    with disk.transaction():
        assert disk.take_shed() == {}  # there is no room yet
        flight = disk.next(Kind.LOGS, most=10_000, most_bytes=10 * MIB)
        assert flight is not None
        disk.done(Kind.LOGS, flight, flight.kept, [])
        assert sum(disk.take_shed().values()) == 900 - len(left)
        assert disk.take_shed() == {}
    disk.close()


def test_what_is_on_its_way_is_not_dropped(tmp_path: Path) -> None:
    disk = a_disk(tmp_path, limit=MIB, reserve=MIB // 4)
    stored(disk, *range(100), level=10, size=1000)
    with disk.transaction():
        assert disk.next(Kind.LOGS, most=50, most_bytes=MIB)
    for number in range(100, 900):
        stored(disk, number, level=20, size=1000)
    assert waiting(disk)[:50] == list(range(50))
    disk.close()


def test_events_have_the_reserve_and_are_never_dropped(tmp_path: Path) -> None:
    disk = a_disk(tmp_path, limit=MIB, reserve=MIB // 4)
    for number in range(0, 700):
        stored(disk, number, level=50, size=1000)
    events = 0
    with pytest.raises(Transient, match="FLOWGROUP_RELAY_SPOOL_LIMIT_BYTES"):
        for events in range(10_000):
            stored(disk, events, kind=Kind.EVENTS, size=1000, desk="d", number=events + 1)
    assert events > 200
    assert len(waiting(disk, Kind.EVENTS)) == events
    with disk.transaction():
        flight = disk.next(Kind.EVENTS, most=100, most_bytes=MIB)
        assert flight is not None
        disk.done(Kind.EVENTS, flight, flight.kept, [])
    assert stored(disk, events, kind=Kind.EVENTS, desk="d", number=events + 1)  # the one that had no room comes again
    disk.close()


def test_a_full_disk_is_an_answer_and_what_waits_can_still_be_delivered(tmp_path: Path) -> None:
    disk = a_disk(tmp_path)
    stored(disk, *range(10))
    pages = disk._db.execute("PRAGMA page_count").fetchone()[0]
    disk._db.execute(f"PRAGMA max_page_count={pages + 20}")
    number = 100
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for number in range(100, 10_000):
            stored(disk, number, size=4000)
    there = waiting(disk)
    assert there[:10] == list(range(10))
    assert there[10:] == list(range(100, number))
    assert disk.waiting[Kind.LOGS].records == len(there)
    with disk.transaction():
        flight = disk.next(Kind.LOGS, most=1000, most_bytes=MIB)
        assert flight is not None
        disk.done(Kind.LOGS, flight, flight.kept, [])
    assert stored(disk, number)
    disk.close()


def test_dead_letters_are_kept_with_their_reason_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowgroup.relay.spool.disk._DEAD_BYTES", 10_000)
    disk = a_disk(tmp_path)
    stored(disk, *range(30), size=1000)
    with disk.transaction():
        flight = disk.next(Kind.LOGS, most=100, most_bytes=MIB)
        assert flight is not None
        disk.done(Kind.LOGS, flight, [], [(one, f"422 no {one.seq}") for one in flight.kept])
    kept = disk.dead()
    assert 7 <= len(kept) < 10
    assert kept[-1][:2] == ("logs", "422 no 30")
    assert waiting(disk) == []
    disk.close()
