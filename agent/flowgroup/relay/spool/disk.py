"""
The spool's file: SQLite with a write-ahead log, every commit synced. One connection, held alone: with a second one this
SQLite may lose commits when its log starts anew (fixed in 3.51.3).

A file that cannot be read is moved aside and kept; the spool starts with a new one. Nothing here waits or is async: all of
it runs in the one thread of `writer.py`, within its transaction.
"""

import contextlib
import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowgroup import log, metrics
from flowgroup.errors import Refused, Transient
from flowgroup.model.lines import level_name
from flowgroup.relay.spool.rows import Kind, Row

_FILE = "spool.db"
_BALLAST = "ballast"
_BALLAST_BYTES = 4 * 1024 * 1024
_LOCKED_S = 10.0
_COMMITS_A_CHECKPOINT = 32
_MOST_WAL_PAGES = 4096  # beyond them a commit makes the checkpoint itself, as it would at 1000 otherwise
_DEAD_BYTES = 16 * 1024 * 1024
_ROOM_AGAIN = 0.95
_TIMES_OF = 20_000
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SCHEMA = """
CREATE TABLE IF NOT EXISTS {kind} (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, at INTEGER NOT NULL, level INTEGER NOT NULL,
    size INTEGER NOT NULL, body BLOB NOT NULL
);
"""
_MORE = """
CREATE INDEX IF NOT EXISTS logs_by_level ON logs (level);
CREATE TABLE IF NOT EXISTS flights (kind TEXT PRIMARY KEY, last INTEGER NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS desks (
    desk TEXT NOT NULL, kind TEXT NOT NULL, number INTEGER NOT NULL, until REAL NOT NULL, PRIMARY KEY (desk, kind)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS desks_by_until ON desks (until);
CREATE TABLE IF NOT EXISTS sent (last INTEGER PRIMARY KEY, times TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS shed (run TEXT PRIMARY KEY, lines INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """
    What a driver sent at once. `desk` and `number` tell it from others, None of a sender that cannot say; this is known
    for `known_s` seconds.
    """

    kind: Kind
    rows: Sequence[Row]
    desk: str | None = None
    number: int = 0
    known_s: float = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it lies in the spool."""

    seq: int
    row: Row


@dataclass(frozen=True, slots=True)
class Flight:
    """
    The records of one call. `since`: when (time.time) they may have been sent for the first time by a relay that was
    killed; None: they never were. `file` is the spool that they are of.
    """

    file: str
    kept: Sequence[Kept]
    since: float | None


@dataclass(slots=True)
class Level:
    """How much of a kind waits."""

    records: int = 0
    bytes: int = 0


@dataclass
class Disk:
    """`limit_bytes` bounds records, `reserve_bytes` of it are for events alone."""

    folder: Path
    limit_bytes: int
    reserve_bytes: int
    clock: Callable[[], float] = time.time
    file: str = field(default_factory=lambda: uuid.uuid4().hex)
    waiting: dict[Kind, Level] = field(default_factory=lambda: {kind: Level() for kind in Kind})
    _db: sqlite3.Connection = field(init=False, repr=False)
    _is_open: bool = False
    _commits: int = 0  # since the last checkpoint

    def __post_init__(self) -> None:
        """Raises Refused when the folder cannot be used, or another relay uses it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._open()
        except (OSError, sqlite3.OperationalError) as exc:
            raise Refused(
                f"the relay cannot keep its spool in {self.folder}: {exc}. Set FLOWGROUP_RELAY_SPOOL to a folder of its own "
                "on a local disk, and let one relay use it."
            ) from exc

    # The file

    def _open(self) -> None:
        try:
            self._db = self._opened()
        except sqlite3.DatabaseError as exc:
            if not is_corrupt(exc):
                raise
            self._set_aside(exc)
            self._db = self._opened()
        self._is_open = True
        self.recount()
        self._keep_ballast()

    def _opened(self) -> sqlite3.Connection:
        made = sqlite3.connect(
            self.folder / _FILE, isolation_level=None, timeout=_LOCKED_S, check_same_thread=False, cached_statements=64
        )
        try:
            for pragma in ("locking_mode=EXCLUSIVE", "auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL"):
                made.execute(f"PRAGMA {pragma}")
            made.execute("PRAGMA cache_size=-256")  # KiB: both ends of each tree; more fills for hours and is of no use
            made.execute(f"PRAGMA wal_autocheckpoint={_MOST_WAL_PAGES}")
            _check(made)
            made.execute("BEGIN IMMEDIATE")
            for kind in Kind:
                made.execute(_SCHEMA.format(kind=kind))
            for statement in filter(str.strip, _MORE.split(";")):
                made.execute(statement)
            made.execute("COMMIT")
        except BaseException:
            made.close()
            raise
        return made

    def start_anew(self, trouble: sqlite3.DatabaseError) -> None:
        """The file turned out to be broken while it was used. The new one is opened by the next transaction."""
        self._is_open = False
        self._db.close()
        self._set_aside(trouble)
        self.file = uuid.uuid4().hex

    def _set_aside(self, trouble: sqlite3.DatabaseError) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{uuid.uuid4().hex[:4]}"
        for name in (_FILE, f"{_FILE}-wal", f"{_FILE}-shm"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).rename(self.folder / f"corrupt-{stamp}-{name}")
        metrics.RELAY_SPOOL_SET_ASIDE.inc()
        log.get().error(
            "spool_set_aside", reason=str(trouble), kept=f"{self.folder}/corrupt-{stamp}-{_FILE}",
            then="a new spool is begun; what was in this one and is not at the API is only there",
        )  # fmt: skip

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block, or nothing of it."""
        if not self._is_open:
            self._open()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
            self._commits += 1
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                self.recount()
            raise

    def checkpoint(self) -> None:
        """
        Outside of transactions, from time to time: the log's pages go to the file itself. It takes ten times as long as a
        commit, and nobody waits for it here. Raises sqlite3.Error.
        """
        if self._is_open and self._commits >= _COMMITS_A_CHECKPOINT:
            self._commits = 0
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def recount(self) -> None:
        for kind in Kind:
            count, size = self._db.execute(f"SELECT count(*), total(size) FROM {kind}").fetchone()  # noqa: S608
            self.waiting[kind] = Level(count, int(size))

    def _keep_ballast(self) -> None:
        """Room that is given up when the disk is full, so that what is there can be delivered and deleted."""
        with contextlib.suppress(OSError):
            if not (self.folder / _BALLAST).exists():
                (self.folder / _BALLAST).write_bytes(b"\0" * _BALLAST_BYTES)

    def make_room(self) -> None:
        """The disk is full."""
        with contextlib.suppress(OSError):
            (self.folder / _BALLAST).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Outside of transactions, when nothing waits: the file gets smaller, and room is kept again."""
        self._db.execute("PRAGMA incremental_vacuum(2000)").fetchall()
        self._keep_ballast()

    # What drivers send

    def store(self, batch: Batch) -> bool:
        """False: it was stored before. Raises Transient when events have no room."""
        level = self.waiting[batch.kind]
        size = sum(row.size for row in batch.rows)
        if batch.kind is Kind.EVENTS and self._bytes() + size > self.limit_bytes:
            raise Transient(f"the relay's spool is full ({self.limit_bytes} bytes, FLOWGROUP_RELAY_SPOOL_LIMIT_BYTES)")
        if batch.desk is not None and not self._is_new(batch.desk, batch):
            return False
        self._db.executemany(
            f"INSERT INTO {batch.kind} (run, at, level, size, body) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
            [(row.run, row.at_us, row.level, row.size, row.body) for row in batch.rows],
        )
        level.records += len(batch.rows)
        level.bytes += size
        if batch.kind is Kind.LOGS and self._bytes() > self.limit_bytes - self.reserve_bytes:
            self._shed()
        return True

    def _is_new(self, desk: str, batch: Batch) -> bool:
        now = self.clock()
        known = self._db.execute("SELECT number FROM desks WHERE desk = ? AND kind = ?", (desk, batch.kind)).fetchone()
        if known is not None and batch.number <= known[0]:
            return False
        told = (desk, batch.kind, batch.number, now + batch.known_s)
        self._db.execute("INSERT OR REPLACE INTO desks VALUES (?, ?, ?, ?)", told)
        self._db.execute("DELETE FROM desks WHERE until < ?", (now,))
        return True

    def _bytes(self) -> int:
        return sum(level.bytes for level in self.waiting.values())

    def _shed(self) -> None:
        """Drop lines, those of the lowest level first and of them the oldest; none that may be at the API already."""
        most = int((self.limit_bytes - self.reserve_bytes) * _ROOM_AGAIN) - self.waiting[Kind.EVENTS].bytes
        last = self._db.execute("SELECT coalesce(max(last), 0) FROM flights WHERE kind = 'logs'").fetchone()[0]
        gone: list[int] = []
        runs: dict[str, int] = {}
        level = self.waiting[Kind.LOGS]
        found = self._db.execute("SELECT seq, run, level, size FROM logs WHERE seq > ? ORDER BY level, seq", (last,))
        for seq, run, of_level, size in found:
            if level.bytes <= most:
                break
            gone.append(seq)
            runs[run] = runs.get(run, 0) + 1
            level.bytes -= size
            level.records -= 1
            metrics.RELAY_LINES_SHED.labels(level_name(of_level)).inc()
        found.close()
        self._db.executemany("DELETE FROM logs WHERE seq = ?", [(seq,) for seq in gone])
        self._db.executemany(
            "INSERT INTO shed VALUES (?, ?) ON CONFLICT DO UPDATE SET lines = lines + excluded.lines",
            [(run, lines) for run, lines in runs.items() if run],
        )

    def take_shed(self) -> dict[str, int]:
        """How many lines of each run were dropped and not said yet; once there is room again."""
        if self._bytes() > (self.limit_bytes - self.reserve_bytes) // 2:
            return {}
        told = dict(self._db.execute("SELECT run, lines FROM shed").fetchall())
        if told:
            self._db.execute("DELETE FROM shed")
        return told

    # What the API gets

    def next(self, kind: Kind, *, most: int, most_bytes: int) -> Flight | None:
        """The first records that wait; of logs noted as on their way. At most `most`, of `most_bytes` or one."""
        if not self.waiting[kind].records:
            return None
        flight = self._db.execute("SELECT last, since FROM flights WHERE kind = ?", (kind,)).fetchone()
        last, since = flight or (1 << 62, None)
        kept: list[Kept] = []
        size = 0
        found = self._db.execute(
            f"SELECT seq, body, run, at, level FROM {kind} WHERE seq <= ? ORDER BY seq LIMIT ?",  # noqa: S608
            (last, most),
        )
        for seq, *row in found:
            size += len(row[0])
            if kept and size > most_bytes:
                break
            kept.append(Kept(seq, Row(*row)))
        found.close()
        if flight and not kept:
            self._db.execute("DELETE FROM flights WHERE kind = ?", (kind,))
            return self.next(kind, most=most, most_bytes=most_bytes)
        if not flight and kind is Kind.LOGS:
            self.note_flight(kind, kept[-1].seq)
        return Flight(self.file, kept, since)

    def note_flight(self, kind: Kind, last: int) -> None:
        """From now on all up to `last` may be at the API."""
        self._db.execute("INSERT OR REPLACE INTO flights VALUES (?, ?, ?)", (kind, last, self.clock()))

    def forget_flight(self, kind: Kind) -> None:
        """What was on its way is not at the API, and goes with what comes next."""
        self._db.execute("DELETE FROM flights WHERE kind = ?", (kind,))

    def done(self, kind: Kind, flight: Flight, taken: Sequence[Kept], dead: Sequence[tuple[Kept, str]]) -> None:
        """The API has `taken`, and refuses `dead` for ever, each with its reason."""
        if flight.file != self.file:
            return
        level = self.waiting[kind]
        for one, reason in dead:
            self._db.execute(
                "INSERT INTO dead (kind, at, reason, body) VALUES (?, ?, ?, ?)",
                (kind, self.clock(), reason, one.row.body),
            )
        for one in (*taken, *(kept for kept, _ in dead)):
            self._db.execute(f"DELETE FROM {kind} WHERE seq = ?", (one.seq,))  # noqa: S608
            level.records -= 1
            level.bytes -= one.row.size
        if kind is Kind.LOGS and taken:
            self._note_times(taken)
        left = self._db.execute(
            f"SELECT 1 FROM flights JOIN {kind} ON seq <= last WHERE kind = ? LIMIT 1", (kind,)  # noqa: S608
        ).fetchone()  # fmt: skip
        if left is None:
            self._db.execute("DELETE FROM flights WHERE kind = ?", (kind,))
        if dead:
            self._bound_dead()

    def _note_times(self, taken: Sequence[Kept]) -> None:
        times: dict[str, list[int]] = {}
        for one in taken:
            times.setdefault(one.row.run, []).append(one.row.at_us)
        last = max(one.seq for one in taken)
        self._db.execute("INSERT OR REPLACE INTO sent VALUES (?, ?)", (last, json.dumps(times)))
        self._db.execute("DELETE FROM sent WHERE last <= ?", (last - _TIMES_OF,))

    def times(self) -> list[tuple[str, int]]:
        """
        Run and time (microseconds) of the last lines that the API has got or that wait, oldest first: what a relay that was
        started again may not give to other lines.
        """
        noted = [json.loads(times) for (times,) in self._db.execute("SELECT times FROM sent ORDER BY last")]
        sent = [(run, at) for times in noted for run, of in times.items() for at in of]
        newest = self._db.execute("SELECT run, at FROM logs ORDER BY seq DESC LIMIT ?", (_TIMES_OF,)).fetchall()
        return [*sent, *reversed(newest)]

    def _bound_dead(self) -> None:
        size = self._db.execute("SELECT total(length(body)) FROM dead").fetchone()[0]
        while size > _DEAD_BYTES:
            seq, length = self._db.execute("SELECT seq, length(body) FROM dead ORDER BY seq LIMIT 1").fetchone()
            self._db.execute("DELETE FROM dead WHERE seq = ?", (seq,))
            size -= length

    def dead(self) -> list[tuple[str, str, bytes]]:
        """Kind, reason and body of what the API refused, oldest first."""
        return self._db.execute("SELECT kind, reason, body FROM dead ORDER BY seq").fetchall()


def _check(db: sqlite3.Connection) -> None:
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        broken = sqlite3.DatabaseError(str(found))
        broken.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise broken


def is_corrupt(trouble: sqlite3.Error) -> bool:
    """The file itself is broken, not the disk or the moment."""
    return (getattr(trouble, "sqlite_errorcode", None) or 0) & 0xFF in _CORRUPT


def is_full(trouble: sqlite3.Error) -> bool:
    return (getattr(trouble, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL
