"""
The zygote: a single-threaded process that has imported everything a run needs, and forks one child per run.

In: fork requests on a SEQPACKET socket, each an order's bytes with three file descriptors (the child's output,
its leash and its shipper). Out: `{"forked": …}` and `{"exited": …}` on the same socket. It may not start a thread, open a
connection or run an event loop: a fork copies only the thread that calls it.

A request may also be for a template, with one descriptor, its own control socket: a child that gets ready by what
`prepare` does (warming.py), and then serves there as the zygote does here.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from flowgroup.driver.oskit import die_with_parent

MAX_PACKET = 1024 * 1024
Run = Callable[[bytes, int, int], int]
"""What a child does: the order's bytes, the leash's and the shipper's descriptors in, an exit status out."""
Say = Callable[[dict[str, Any]], None]
Prepare = Callable[[bytes, Say], Run | None]
"""What a template does before it serves. Gives what its children do, or None if it must not fork."""


def serve(control: socket.socket, run: Run, prepare: Prepare | None = None) -> None:
    """Fork on request until the desk closes the socket; then end, and every child with it (PR_SET_PDEATHSIG)."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    _say(control, {"ready": os.getpid(), "threads": threads()})
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            woken.recv(4096)
        _reap(control)
        if control in readable and not _fork_one(control, (woken, wake), run, prepare):
            return


def _fork_one(
    control: socket.socket, mine: tuple[socket.socket, socket.socket], run: Run, prepare: Prepare | None
) -> bool:
    packet, fds, _, _ = socket.recv_fds(control, MAX_PACKET, 3)
    if not packet:
        return False
    request = json.loads(packet)
    zygote = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for end in (control, *mine):
            end.close()
        if prepare and request.get("template"):
            _become(zygote, lambda: _template(request, fds[0], prepare))
        _become(zygote, lambda: _child(request, fds, run))
    for fd in fds:
        os.close(fd)
    _say(control, {"forked": request["attempt"], "pid": pid})
    return True


def _become(zygote: int, work: Callable[[], int]) -> NoReturn:
    """In the child: a session of its own and default signals, then `work`; never returns."""
    code = 70
    try:
        os.setsid()
        die_with_parent(signal.SIGKILL)
        if os.getppid() != zygote:  # it died before we could ask to die with it
            os._exit(code)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        code = work()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001  a child must end as a child, whatever it was: it must never go on as a zygote
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _child(request: dict[str, Any], fds: list[int], run: Run) -> int:
    output, leash, shipper = fds
    _stdio(output)
    os.chdir(request["folder"])
    return run(request["order"].encode(), leash, shipper)


def _template(request: dict[str, Any], fd: int, prepare: Prepare) -> int:
    control = socket.socket(fileno=fd)
    os.chdir(request["folder"])
    run = prepare(request["order"].encode(), lambda message: _say(control, message))
    if run:
        serve(control, run)
    return 0


def _stdio(output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(control, {"exited": pid, "status": status})


def _say(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())


def threads() -> int:
    """How many threads this process has; 1 where that cannot be told."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 1
