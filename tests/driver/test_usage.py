"""What a driver uses: itself, what it started, and what of that has ended."""

import asyncio
import os
import subprocess
import sys

from flowgroup.driver import oskit, usage
from flowgroup.driver.usage import Usage

_BUSY = "import time\nwhile time.process_time() < 0.5: pass\n"


def test_the_time_of_a_child_stays_when_it_has_ended() -> None:
    before = oskit.cpu_s({os.getpid()})
    subprocess.run([sys.executable, "-c", _BUSY], check=True)
    assert oskit.cpu_s({os.getpid()}) - before >= 0.45


def test_a_process_that_is_gone_used_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert oskit.cpu_s({gone.pid}) == 0.0


async def test_usage_grows_with_what_runs_below() -> None:
    used = Usage()
    keeping = asyncio.create_task(used.keep())
    child = subprocess.Popen([sys.executable, "-c", f"{_BUSY}input()"], stdin=subprocess.PIPE)
    try:
        alone = usage._used(child.pid)
        async with asyncio.timeout(60):
            while usage._used(child.pid)[0] < 0.45 or not used.memory_bytes:
                await asyncio.sleep(0.05)
        assert usage._used(os.getpid())[0] >= usage._used(child.pid)[0] > alone[0] - 0.01
        assert used.memory_bytes > 5 * 2**20
    finally:
        keeping.cancel()
        child.kill()
        child.communicate()
