"""What /proc says of a process."""

import os
import subprocess
import sys

import pytest

from flowgroup.dev.proc import cpu_ticks_of, rss_of, tree, usage


def test_cpu_time_is_user_and_kernel_whatever_the_process_calls_itself() -> None:
    rest = "S 1 2 3 4 5 6 7 8 9 10 70 7 0 0 20 0 1 0 99"
    for name in ("python", "my (odd) name", ") 1 2 3"):
        assert cpu_ticks_of(f"42 ({name}) {rest}") == 77


def test_resident_memory_is_in_bytes_and_a_zombie_has_none() -> None:
    assert rss_of("Name:\tpython\nVmPeak:\t  999 kB\nVmRSS:\t   2048 kB\n") == 2 * 1024 * 1024
    assert rss_of("Name:\tpython\nState:\tZ (zombie)\n") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_that_runs_has_used_something_and_one_that_does_not_is_an_error() -> None:
    used = usage(os.getpid())
    assert used.rss_bytes > 1024 * 1024
    assert used.cpu_s > 0
    with pytest.raises(OSError):
        usage(2**30)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_tree_has_the_process_and_what_it_started() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= tree(os.getpid())
        assert os.getpid() not in tree(child.pid)
        child.communicate(b"\n")
