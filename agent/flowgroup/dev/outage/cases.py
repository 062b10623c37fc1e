"""Runs through a trouble: what is said before, meanwhile and afterwards, and what the API has of it in the end."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

from flowgroup.dev.bench import runs
from flowgroup.dev.front import FAULTS, Fault
from flowgroup.dev.outage.judge import Told, busiest, entries_in_order, judged, number_of
from flowgroup.dev.outage.stand import Ours, Stand
from flowgroup.errors import Permanent

_PAGE, _LIVE_S = 200, 2.0
_LOOK_S, _DRAIN_LIMIT_S = 0.5, 120.0
_ASK_LIMIT_S = 300.0
_AHEAD_S, _STARTS_S = 15.0, 5.0
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_SETTLED_S = 180.0  # the server itself takes minutes at times until it shows a task of an event that it has
_MINUTE_S = 60.0
_TASK_EVERY_S = 5  # of `numbered`
_AGAIN_S = 0.05
_BACK_S = 30.0
_BETWEEN_KILLS_S = (0.2, 2.0)
_KILL_TAKES_S = 8  # the daemon looks after its relay every 5 s

Row = dict[str, Any]
T = TypeVar("T")
Trouble = Callable[[Stand], AbstractContextManager[None]]


class Size(NamedTuple):
    """`runs` go on through all of it, each with `per_s` lines a second; one more ends in its middle, and two begin there."""

    runs: int = 4
    per_s: int = 10
    before_s: int = 5
    after_s: int = 15


def fault(name: str) -> Trouble:
    """The API is as this says."""
    return lambda stand: _wrong(stand, FAULTS[name])


@contextmanager
def _wrong(stand: Stand, how: Fault) -> Iterator[None]:
    stand.front.go_wrong(how)
    try:
        yield
    finally:
        stand.front.heal()


@contextmanager
def relay_gone(stand: Stand) -> Iterator[None]:
    """Each time that the daemon has started it again, it is killed."""
    assert isinstance(stand, Ours)
    over = threading.Event()

    def keep() -> None:
        while not over.wait(_AGAIN_S):
            stand.kill_relay()

    keeping = threading.Thread(target=keep, name="killer")
    keeping.start()
    try:
        yield
    finally:
        over.set()
        keeping.join()


def through(stand: Stand, case: str, trouble: Trouble, span_s: int, size: Size) -> Row:
    """The whole of one trouble. Raises Permanent when the runs do not even begin, or have ended before it."""
    per_s = size.per_s
    whole, short = (size.before_s + span_s + size.after_s) * per_s, (size.before_s + span_s // 2) * per_s
    due_at = time.time() + _AHEAD_S
    long = _asked(stand, due_at, [whole] * size.runs, per_s)
    wanted = dict.fromkeys(long, whole) | dict.fromkeys(_asked(stand, due_at, [short], per_s), short)
    begins_at = due_at + _STARTS_S + size.before_s + span_s / 2
    late = _asked(stand, begins_at, [size.after_s * per_s] * 2, per_s)
    _sure(lambda: runs.wait_running(stand.bench.api, list(wanted)))
    stand.exits()
    time.sleep(size.before_s)
    if _ended_of(stand, long):
        raise Permanent("the server was so slow that runs had ended before the trouble began: nothing was measured")
    began = time.monotonic()
    with trouble(stand):
        time.sleep(span_s)
    healed = time.monotonic()
    drained_s = _drained_s(stand, long, healed)
    wanted |= dict.fromkeys(late, size.after_s * per_s)
    return {
        **_ended(stand, case, wanted, per_s),
        "seconds": span_s,
        "drained_s": drained_s,
        **_calls(stand, began, healed, size.before_s),
    }


def not_measured(case: str, trouble: str) -> Row:
    """The row of a case that could not be carried through."""
    empty: Row = {"wrong": {}, "odd": [], "exits": [], "held_s": None, "drained_s": None}
    counts = dict.fromkeys(("runs", "lines", "seconds", "busiest_before", "busiest_meanwhile", "busiest_after"), 0)
    return {"case": case, **empty, **counts, "trouble": trouble}


def kills(stand: Stand, case: str, count: int, size: Size) -> Row:
    """The relay is killed by SIGKILL, again and again, under load."""
    assert isinstance(stand, Ours)
    lines = (count * _KILL_TAKES_S + size.after_s) * size.per_s
    wanted = dict.fromkeys(_asked(stand, time.time() + _AHEAD_S, [lines] * size.runs, size.per_s), lines)
    _sure(lambda: runs.wait_running(stand.bench.api, list(wanted)))
    stand.exits()
    began = time.monotonic()
    for _ in range(count):
        _until_up(stand)
        time.sleep(random.uniform(*_BETWEEN_KILLS_S))  # noqa: S311
        stand.kill_relay()
    healed = time.monotonic()
    drained_s = _drained_s(stand, list(wanted), healed)
    return {
        **_ended(stand, case, wanted, size.per_s),
        "seconds": round(healed - began),
        "drained_s": drained_s,
        **_calls(stand, began, healed, size.before_s),
    }


def _until_up(stand: Ours) -> None:
    """A relay that is not up yet has nothing to lose."""
    deadline = time.monotonic() + _BACK_S
    while not stand.is_relay_up():
        if time.monotonic() > deadline:
            raise Permanent(f"the relay was not started again within {_BACK_S:.0f} s")
        time.sleep(_AGAIN_S)


def _asked(stand: Stand, due_at: float, lines: list[int], per_s: int) -> list[str]:
    """
    Runs with so many lines, due at this moment (epoch). They are asked for ahead, at the server itself: over SQLite it
    refuses to make runs while it writes.
    """
    say = {"per_s": per_s, "asks_every_s": stand.asks_every_s}
    ask = partial(runs.start, stand.bench.api, stand.deployment, due_at, **say)
    return [_sure(partial(ask, lines=count)) for count in lines]


def _sure(ask: Callable[[], T]) -> T:
    """What the server itself answers, however long that stands still over its SQLite file. Raises Permanent in the end."""
    deadline = time.monotonic() + _ASK_LIMIT_S
    while True:
        try:
            return ask()
        except Permanent:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_S)


def _drained_s(stand: Stand, asked: list[str], healed: float) -> float | None:
    """From the end of the trouble until the newest line of every run is young; None if that is not within two minutes."""
    late = set(asked)
    while late:
        if time.monotonic() - healed > _DRAIN_LIMIT_S:
            return None
        late = {run for run in late if not _is_live(stand, run)}
        time.sleep(_LOOK_S if late else 0)
    return round(time.monotonic() - healed, 1)


def _is_live(stand: Stand, run: str) -> bool:
    """Its newest line is young, or it has ended and so has nothing more to say."""
    newest = _sure(lambda: runs.lines(stand.bench.api, [run], limit=1, newest=True))
    age_s = time.time() - runs.seconds(newest[0]["timestamp"]) if newest else _DRAIN_LIMIT_S
    return age_s < _LIVE_S or _ended_of(stand, [run]) == 1


def _ended(stand: Stand, case: str, wanted: Mapping[str, int], per_s: int) -> Row:
    """Wait until the runs have ended and nothing more of them comes; what is wrong then."""
    limit_s = max(wanted.values()) / per_s + _DRAIN_LIMIT_S
    try:
        _wait(stand, list(wanted), limit_s)
        trouble = ""
    except Permanent as exc:
        trouble = str(exc)
    until = time.monotonic() + _SETTLED_S
    told = [_told(stand, run, lines, per_s, until) for run, lines in wanted.items()]
    result = judged(told)
    return {
        "case": case,
        "runs": len(wanted),
        "lines": sum(wanted.values()),
        "wrong": dict(result.wrong),
        "odd": result.odd,
        "held_s": result.held_s,
        "exits": stand.exits(),
        "trouble": trouble,
    }


def _ended_of(stand: Stand, asked: list[str]) -> int:
    return _sure(lambda: runs.count(stand.bench.api, asked, _FINAL))


def _wait(stand: Stand, asked: list[str], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while (ended := _ended_of(stand, asked)) < len(asked):
        if time.monotonic() > deadline:
            raise Permanent(f"{len(asked) - ended} of {len(asked)} runs have not ended after {limit_s:.0f} s")
        time.sleep(_LOOK_S)


def _told(stand: Stand, run: str, lines: int, per_s: int, until: float) -> Told:
    """Looks again until then while something is missing: what is on its way has not been lost."""
    wanted = -(-lines // (_TASK_EVERY_S * per_s))
    while True:
        log, tasks = _log(stand, run), _tasks(stand, run)
        numbers = {number_of(line) for line in log} - {None}
        is_whole = len(numbers) >= lines and tasks.count("COMPLETED") >= wanted
        if is_whole or time.monotonic() > until:
            states = _sure(lambda: runs.get(stand.bench.api, "/flow_run_states/", flow_run_id=run))
            names = [str(state["name"]) for state in sorted(states, key=lambda one: str(one["timestamp"]))]
            return Told(log, names, tasks, lines, wanted)
        time.sleep(1)


def _log(stand: Stand, run: str) -> list[str]:
    found: dict[str, Any] = {}
    offset = 0
    while page := _sure(lambda: runs.lines(stand.bench.api, [run], offset=offset, limit=_PAGE)):  # noqa: B023
        offset += len(page)
        found |= {entry["id"]: entry for entry in page}  # equal timestamps may come again on the next page
    return entries_in_order(found.values())


def _tasks(stand: Stand, run: str) -> list[str]:
    where = {"flow_runs": {"id": {"any_": [run]}}, "limit": _PAGE}
    found = _sure(lambda: runs.post(stand.bench.api, "/task_runs/filter", where))
    return [str((one["state"] or {}).get("type")) for one in found]


def _calls(stand: Stand, began: float, healed: float, before_s: float) -> Row:
    """The most calls to the API within a second: before, meanwhile, and in the first minute afterwards."""
    at = [call.at for call in stand.front.seen]
    return {
        "busiest_before": busiest(at, began - before_s, before_s),
        "busiest_meanwhile": busiest(at, began, healed - began),
        "busiest_after": busiest(at, healed, _MINUTE_S),
    }
