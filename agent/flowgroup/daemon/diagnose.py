"""From how a child ended to the run's outcome: what happened, why probably, and what to do. Pure."""

import signal

from flowgroup.model.causes import said, tail
from flowgroup.model.orders import Exit
from flowgroup.model.runs import Cancelled, Crashed, Outcome, Reported

_TAIL_LINES = 20
_TAIL_CHARS = 2000
_LINES_MAY_SAY = "The last lines of its output may say why."

_SIGNALS = {
    signal.SIGKILL: (
        "Probably the machine was short of memory and the kernel ended it; somebody may also have run `kill -9`. "
        "Give the run less to hold at once, or set memory_limit_bytes so that it is ended with a clear word."
    ),
    signal.SIGSEGV: (
        "That is a crash in native code (a C extension, or a library that does not survive a fork). "
        "Try the newest version of the packages that it uses, or mode='per-run'."
    ),
    signal.SIGBUS: "That is a crash in native code, or a memory-mapped file that became shorter, or a full /dev/shm.",
    signal.SIGABRT: "Native code gave up by itself; the last lines of its output say why.",
    signal.SIGFPE: "Native code divided by zero.",
    signal.SIGILL: "Native code was built for another processor: reinstall the package for this machine.",
    signal.SIGTERM: "Somebody asked the process to end: a shutdown of the machine, or `kill`.",
    signal.SIGINT: "Somebody interrupted the process.",
    signal.SIGXCPU: "It used more processor time than its limit (ulimit -t) allows.",
    signal.SIGXFSZ: "It wrote a larger file than its limit (ulimit -f) allows.",
}

_CODES = {
    0: "It left without saying how the run ended: does the flow call os._exit or sys.exit?",
    1: "The last lines of its output say why.",
    126: "Something that it should run is not executable.",
    127: "Something that it should run was not found.",
}


def outcome_of(exit_: Exit, *, cancelled: bool) -> Outcome:
    """What a child's end means. `cancelled`: we had asked it to end."""
    if exit_.reported:
        return Reported()
    if cancelled:
        return Cancelled("Cancelled: the run did not end by itself in time, so its process was ended.")
    return Crashed(f"{_what(exit_)}{_where(exit_)}{tail(exit_.tail, lines=_TAIL_LINES, chars=_TAIL_CHARS)}")


def _what(exit_: Exit) -> str:
    if exit_.cause:
        return exit_.cause
    if exit_.signal is not None:
        return said("child-signal", signal=_signal_name(exit_.signal), means=_signal_means(exit_.signal))
    if exit_.code is None:
        return said("child-gone")
    return said("child-exit", status=exit_.code, means=_CODES.get(exit_.code, _LINES_MAY_SAY))


def _where(exit_: Exit) -> str:
    return "" if exit_.reached_user_code else " The flow's own code had not begun."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _signal_means(number: int) -> str:
    return next(
        (means for known, means in _SIGNALS.items() if known == number),
        _LINES_MAY_SAY,
    )
