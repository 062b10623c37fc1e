"""What is freed goes back to the system, in a process of its own: an allocator's settings are for all of it."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

_MIB = 1024 * 1024
_BODIES = """
import sys
from pathlib import Path

if sys.argv[1] == "gives back":
    from flowgroup.memory import gives_back
    gives_back()

def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))

bytes(1024 * 1024)  # freed at once: glibc takes this size for small from now on
before, bodies, stays = resident(), [], []
for number in range(200):
    bodies.append(b"x" * (256 * 1024))
    stays.append(bytearray(600))
bodies.clear()
print((resident() - before) * 1024)
"""


def _grown_bytes(how: str) -> int:
    agent = str(Path(__file__).parents[1] / "agent")
    done = subprocess.run(
        [sys.executable, "-c", _BODIES, how], env={"PYTHONPATH": agent}, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_pieces_among_small_ones_that_stay_go_back_to_the_system() -> None:
    assert _grown_bytes("as it is") > 30 * _MIB  # or nothing needs to be done
    assert _grown_bytes("gives back") < 5 * _MIB
