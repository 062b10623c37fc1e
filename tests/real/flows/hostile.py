"""Flows that do not end when they are asked to, each in its way. `ledger`: a file with the pids of all that it started."""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

from prefect import flow, task
from prefect.flow_runs import pause_flow_run

_ENDLESS = "(a+)+$"


def _note(ledger: str, *pids: int) -> None:
    with Path(ledger).open("a") as file:
        file.writelines(f"{pid}\n" for pid in pids)


def _deaf(ledger: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _note(ledger, os.getpid())
    while True:
        time.sleep(0.5)


def _endless_c(ledger: str) -> None:
    _note(ledger, os.getpid())
    re.match(_ENDLESS, "a" * 64 + "b")


def _brood(ledger: str) -> None:
    """Double forks into sessions and with environments of their own, which have children too, and ignore SIGTERM."""
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
        "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n{child.pid}\\n'); time.sleep(600)"
    )
    for _ in range(2):
        if (pid := os.fork()) == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve(sys.executable, [sys.executable, "-c", code, ledger], {})
            os._exit(0)
        os.waitpid(pid, 0)
    while len(Path(ledger).read_text().split()) < 5:
        time.sleep(0.05)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


def _blocked(ledger: str) -> None:
    """Waits for somebody to open the other end of a fifo; no signal but SIGKILL reaches it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    threading.Thread(target=_open, args=(f"{ledger}.thread",)).start()
    _note(ledger, os.getpid())
    _open(f"{ledger}.main")


def _open(fifo: str) -> None:
    os.mkfifo(fifo)
    os.close(os.open(fifo, os.O_RDONLY))


@task(persist_result=False)
def hanging(ledger: str, how: str) -> None:
    _note(ledger, os.getpid())
    if how == "regex":
        re.match(_ENDLESS, "a" * 64 + "b")
    _open(f"{ledger}.task")


def _hung_task(ledger: str) -> None:
    """On Dask: one whose thread waits for ever."""
    hanging.submit(ledger, "fifo").result()


def _frozen_worker(ledger: str) -> None:
    """On Dask: one that holds its worker's interpreter for ever."""
    hanging.submit(ledger, "regex").result()


@task(persist_result=False)
def step(number: int) -> int:
    time.sleep(1.0)  # a server over SQLite answers others 503 for half a minute where each of these takes a tenth of it
    return number


def _neighbour(ledger: str) -> None:
    """Not hostile: keeps the cluster busy with tasks until somebody makes a file."""
    done = 0
    while not Path(f"{ledger}.done").exists():
        assert sorted(step.map(range(done, done + 4)).result()) == list(range(done, done + 4))
        done += 4
        _note(ledger, done)


def _sleeper(_: str) -> None:
    """Not hostile either."""
    time.sleep(600)


def _pauser(_: str) -> None:
    pause_flow_run(timeout=600, poll_interval=1)


@flow(persist_result=False)
def hostile(what: str, ledger: str) -> None:
    _note(ledger, os.getpid())
    globals()[f"_{what}"](ledger)
